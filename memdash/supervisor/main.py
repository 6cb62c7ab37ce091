"""The supervisor process of one run: wires its parts together and beats ten times a second.

Started detached by `memdash run` or `memdash attach`; it holds the run's lock, owns the training process, and ends when
the run is over and the last dashboard has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import time
import traceback
from collections.abc import Sequence
from typing import IO

from memdash import wire
from memdash.client import new_command_id
from memdash.errors import MemdashError, StoreError, SupervisorAlreadyRunning
from memdash.locations import socket_path
from memdash.ring import RingReader
from memdash.store.journal import read_journal
from memdash.store.printed import printed_before
from memdash.store.recorder import Recorder
from memdash.store.run_directory import RunDirectory, RunRecord
from memdash.supervisor.alarm import PressureAlarm
from memdash.supervisor.attempts import Attempts
from memdash.supervisor.budget import WallBudget
from memdash.supervisor.control import Control
from memdash.supervisor.events import LinkChanged
from memdash.supervisor.fanout import Viewer
from memdash.supervisor.forecasting import Forecasting
from memdash.supervisor.gpus import Gpus
from memdash.supervisor.guard import Guard
from memdash.supervisor.keeping import Keeper
from memdash.supervisor.output import OutputLog
from memdash.supervisor.run_state import is_final
from memdash.supervisor.server import Server
from memdash.supervisor.telemetry import Telemetry

BEAT_S = 0.1
WATCHED_BEATS = 2  # between looks into the rings while somebody watches; what is said on the socket is heard at once
SLOW_BEATS = 5  # host memory is sampled every beat and reported at 2 Hz
FIRST_VIEWER_S = 10.0  # a supervisor of a finished run waits so long for whoever asked for it
LAST_VIEWER_S = 2.0
JOURNAL_TAIL = 500


def supervise(directory: RunDirectory, ready_fd: int | None = None, again: Sequence[str] = ()) -> None:
    """Own the run until it is over; `again` launches a run that is over once more, with these arguments.

    Raises SupervisorAlreadyRunning.
    """
    try:
        lock = _lock(directory)
    except SupervisorAlreadyRunning:
        _tell(ready_fd, "busy\n")
        raise
    with lock:
        asyncio.run(_Supervisor(directory, again).run(ready_fd))


class _Supervisor:
    """Implements server.Owner; everything happens in one thread."""

    def __init__(self, directory: RunDirectory, again: Sequence[str]) -> None:
        self._directory = directory
        self._again = again
        self._record = directory.record()
        self.run_id = self._record.run_id
        state = directory.state()
        self._found = state
        journal = read_journal(directory.journal)
        self._keeper = Keeper(directory)
        self._recorder = Recorder(directory)
        self._telemetry = Telemetry(
            state or _first_state(self._record, directory),
            self._recorder,
            self._keeper.history,
            journal_seq=journal[-1].seq if journal else 0,
        )
        self._output = OutputLog(directory.output)
        self._output.begins_at = printed_before(directory)
        self._server = Server(self, socket_path(self.run_id))
        self._attempts = Attempts(directory, self._telemetry, self._output, lambda: bool(self._server.ranks))
        self._control = Control(self._telemetry, self._server.send_to_ranks, self._attempts.terminate)
        self._gpus = Gpus(self._telemetry, {**os.environ, **self._record.env})
        self._alarm = PressureAlarm(self._alarmed)
        self._budget = WallBudget(self._telemetry, self._control, self._record.wall_s)
        self._forecasting = Forecasting(self._telemetry, self._record.wall_s, directory)
        self._guard = Guard(self._telemetry, self._control, self._forecasting, self._record.guard)
        self._backfills: set[asyncio.Task[None]] = set()
        self._idle_since_s = time.monotonic()
        self._had_viewer = False
        self._beats = 0
        self._recorded_output = self._output.ends_at
        self._fault = ""
        self._dismissed = False

    @property
    def attempt(self) -> int:
        """The launch that goes on now."""
        return self._telemetry.state.attempt

    async def run(self, ready_fd: int | None) -> None:
        """Serve, start or adopt the training process, beat until nobody needs us."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_end, number.name)
        loop.add_signal_handler(signal.SIGUSR1, self._asked_to_save, "SIGUSR1")
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        await self._server.start()
        try:
            self._attempts.begin(self._found, self._again)
            _tell(ready_fd, "ready\n")
        except MemdashError as error:
            _tell(ready_fd, f"{error}\n")
            raise
        if self._found and self._attempts.running and self.attempt == self._found.attempt:  # it was adopted
            with contextlib.suppress(MemdashError, OSError):
                self._forecasting.catch_up()
        over = loop.create_future()
        self._go_on(loop, over)
        try:
            await over
        finally:
            if self._found is None or not is_final(self._found):  # else we have only shown it
                self._telemetry.flush_state()
            self._gpus.close()
            self._alarm.close()
            await self._server.stop()
            self._keeper.finish()
            self._recorder.close()

    def _asked_to_end(self, name: str) -> None:
        """A signal stops the run with a full checkpoint; a run that is over is no longer shown."""
        if not self._attempts.running:
            self._dismissed = True
            return
        self._telemetry.journal("warning", "state", f"{name}: saving a full checkpoint and stopping")
        stop = wire.Stop(command_id=new_command_id(), save="full")
        self._control.submit(stop, lambda result: None, time.monotonic(), name)

    def _asked_to_save(self, name: str) -> None:
        """A signal saves a full checkpoint, and the run goes on."""
        if self._attempts.running:
            save = wire.SaveCheckpoint(command_id=new_command_id(), kind="full", reason="signal")
            self._control.submit(save, lambda result: None, time.monotonic(), name)

    # ---- the beat ----

    def _go_on(self, loop: asyncio.AbstractEventLoop, over: asyncio.Future[None]) -> None:
        """One beat, and the next in a while; a timer wakes once for it, where a task that sleeps wakes twice."""
        if self._done():
            over.set_result(None)
        elif not over.cancelled():
            self._guarded_beat()
            loop.call_later(BEAT_S, self._go_on, loop, over)

    def _guarded_beat(self) -> None:
        """A fault in watching must never end what is watched."""
        try:
            self._beat(time.monotonic())
        except Exception as error:
            text = f"a fault in the supervisor: {type(error).__name__}: {error}"
            if text != self._fault:
                self._fault = text
                traceback.print_exc()
                self._telemetry.journal("error", "state", f"{text}; see supervisor.log")

    def _beat(self, now_s: float) -> None:
        self._beats += 1
        if self._beats % (WATCHED_BEATS if self._telemetry.fanout.viewers else SLOW_BEATS) == 0:
            self._server.look_into_rings()
        self._attempts.sample()
        self._read_output()
        self._attempts.watch(now_s)
        self._control.tick(now_s)
        if self._beats % SLOW_BEATS == 0:
            self._slow_beat(now_s)
        self._telemetry.tick(time.time())

    def _slow_beat(self, now_s: float) -> None:
        """What half a second does no harm to."""
        self._report_host()
        self._alarm.follow(self._attempts.pressure_file)
        self._gpus.tick()
        self._record_output()
        self._budget.tick(now_s, time.time())
        self._forecasting.tick(time.time())
        self._guard.tick(now_s)
        self._keeper.tick()
        for viewer in self._telemetry.fanout.recovered():
            viewer.dropped = 0
            self._backfill(viewer, self._series())

    def _report_host(self) -> None:
        if sample := self._attempts.report():
            self._telemetry.host(sample)

    def _alarmed(self) -> None:
        """Processes wait for memory: what there is to say of it is said now, not at the next beat."""
        self._attempts.pressed()
        self._report_host()

    def _read_output(self) -> None:
        text, skipped = self._output.read_new()
        if text or skipped:
            self._telemetry.output(text, skipped)

    def _record_output(self) -> None:
        """When how much had been printed, for whoever plays the record."""
        if self._output.ends_at != self._recorded_output:
            self._recorded_output = self._output.ends_at
            self._recorder.output(time.time(), self._output.begins_at, self._output.ends_at)

    def _done(self) -> bool:
        if self._dismissed:
            return True
        over = is_final(self._telemetry.state) and not self._attempts.running
        if not over or self._telemetry.fanout.viewers:
            self._idle_since_s = time.monotonic()
            return False
        wait_s = LAST_VIEWER_S if self._had_viewer or self._found is None else FIRST_VIEWER_S
        return time.monotonic() - self._idle_since_s > wait_s

    # ---- server.Owner ----

    def heard_s(self, rank: int) -> float:
        """A rank says again what came after that."""
        return self._telemetry.heard_s(rank)

    def rank_joined(self, hello: wire.Hello) -> None:
        """A rank has connected, for the first time or again."""
        self._telemetry.advance(LinkChanged(linked=True, capabilities=hello.capabilities))

    def rank_said(self, message: wire.Telemetry) -> None:
        """An ack goes down the command's way back, the rest up."""
        if isinstance(message, wire.Ack):
            self._control.acked(message)
        else:
            self._telemetry.receive(message)

    def rank_sampled(self, ring: RingReader, rank: int) -> None:
        """All that is new, at once."""
        if samples := ring.take():
            self._telemetry.sampled(rank, samples, ring.read_to)
            ring.done(samples[-1].seq)

    def rank_left(self, rank: int) -> None:
        """Its commands will not be answered any more."""
        self._telemetry.advance(LinkChanged(linked=False))
        self._control.rank_lost(rank, "the training process hung up")

    def viewer_joined(self, viewer: Viewer) -> None:
        """Let it take part and send it what came before."""
        self._had_viewer = True
        self._telemetry.fanout.add(viewer)
        self._backfill(viewer, self._events() + self._series())

    def viewer_asked(self, viewer: Viewer, command: wire.Command) -> None:
        """A command from a dashboard."""
        self._control.submit(
            command,
            lambda result: viewer.send(wire.encode(result)),
            time.monotonic(),
            "a dashboard" if viewer in self._telemetry.fanout.viewers else "a shell",
        )

    def viewer_left(self, viewer: Viewer) -> None:
        """It may come back."""
        self._telemetry.fanout.remove(viewer)

    def intruded(self, reason: str) -> None:
        """Write down who was turned away."""
        self._telemetry.journal("warning", "link", f"connection dropped: {reason}")

    # ---- history ----

    def _events(self) -> list[wire.Message]:
        """What a dashboard that has just attached has to read, oldest first."""
        telemetry = self._telemetry
        events: list[wire.Message] = [telemetry.state, *read_journal(self._directory.journal, last=JOURNAL_TAIL)]
        with contextlib.suppress(StoreError):  # without it there is one page less to look at
            events += [plan] if (plan := self._directory.plan()) else []
        if telemetry.state.host:
            events.append(wire.HostSample(time_s=telemetry.state.ended_s or time.time(), host=telemetry.state.host))
        if tail := self._output.tail():
            events.append(wire.OutputChunk(text=tail))
        return events

    def _series(self) -> list[wire.Message]:
        """What it has to draw; sending it twice changes nothing."""
        return [self._telemetry.state, *self._telemetry.history.messages(), wire.Backfilled()]

    def _backfill(self, viewer: Viewer, messages: list[wire.Message]) -> None:
        task = asyncio.get_running_loop().create_task(_send_slowly(viewer, messages))
        self._backfills.add(task)
        task.add_done_callback(self._backfills.discard)


async def _send_slowly(viewer: Viewer, messages: list[wire.Message]) -> None:
    """Never more at once than the dashboard takes."""
    for message in messages:
        await viewer.room.wait()
        viewer.send(wire.encode(message))


def _first_state(record: RunRecord, directory: RunDirectory) -> wire.RunState:
    return wire.RunState(
        run_id=record.run_id,
        name=record.name,
        created_s=record.created_s,
        world_size=record.world_size,
        run_dir=str(directory.path),
        own_command=record.own_command,
    )


def _lock(directory: RunDirectory) -> IO[bytes]:
    """The right to be this run's supervisor; the kernel gives it back however we end."""
    file = open(directory.lock, "a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise SupervisorAlreadyRunning(
            f"run {directory.run_id} has a supervisor already", hint=f"memdash attach {directory.run_id}"
        ) from None
    file.truncate(0)
    file.write(b"%d\n" % os.getpid())
    file.flush()
    return file


def _tell(descriptor: int | None, text: str) -> None:
    """Say to whoever started us how it went."""
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.write(descriptor, text.encode())
        os.close(descriptor)

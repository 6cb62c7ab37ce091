"""What `run` and `attach` share: the dashboard, or the line printer where there is no terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING

from memdash import wire
from memdash.errors import ExitCode, LinkLost, SupervisorAlreadyRunning, SupervisorNotRunning
from memdash.store.run_directory import RunDirectory
from memdash.units import format_bytes, format_clock, format_count, format_duration, format_percent

if TYPE_CHECKING:
    from memdash.commands._signals import Signals

LINE_EVERY_S = 5.0
RETRY_S = 0.2


def terminal_problem() -> str:
    """Why the dashboard cannot be shown here; empty when it can."""
    if not (os.isatty(0) and os.isatty(2)):
        return "no terminal here: printing lines instead of the dashboard"
    if os.environ.get("TERM", "") in ("", "dumb"):
        return "this terminal cannot place text (TERM=dumb): printing lines instead of the dashboard"
    return ""


def import_dashboard() -> None:
    """What `watch` needs: textual, 0.35 s."""
    import memdash.tui.app  # noqa: F401


def watch(directory: RunDirectory) -> int:
    """Show the dashboard; 0 when the user left it, the run's outcome when it was over."""
    from memdash.tui.app import run_dashboard  # textual: 0.35 s

    left = run_dashboard(directory.run_id)
    state = directory.state()
    if state is not None and state.status in wire.FINAL_STATUSES:
        print(_verdict(state))
        return _exit_code(state)
    print(f"{directory.run_id} goes on ({left.reason}).  Back to it: memdash attach {directory.run_id}")
    return ExitCode.OK


def watch_headless(
    directory: RunDirectory,
    note: str = "",
    *,
    since_s: float = 0.0,
    signals: Signals | None = None,
    name: str = "",
) -> int:
    """Print a line every few seconds and every event since `since_s`, with `name`; the run's outcome as exit code.

    `signals` are passed on to the run, as a scheduler expects of the command that it started.
    """
    if note:
        print(f"memdash: {note}", file=sys.stderr)
    print(f"run {directory.run_id} in {directory.path}", flush=True)
    try:
        state = asyncio.run(_follow(directory, _Printer(since_s, name), signals))
    except KeyboardInterrupt:
        name = directory.run_id
        print(f"{name} goes on.  Back to it: memdash attach {name}; end it: memdash stop {name}")
        return ExitCode.INTERRUPTED
    print(_verdict(state), flush=True)
    return _exit_code(state)


async def _follow(directory: RunDirectory, printer: _Printer, signals: Signals | None) -> wire.RunState:
    """Print until the run is over, coming back when the supervisor was restarted."""
    from memdash.client import Client

    while True:
        try:
            client = await Client.connect(directory.run_id)
        except (SupervisorNotRunning, LinkLost):  # the latter when it dies, or is frozen, just now
            state = directory.state()
            if state is not None and state.status in wire.FINAL_STATUSES:
                return state
            _restart_supervisor(directory)
            await asyncio.sleep(RETRY_S)
            continue
        if signals:
            signals.connected(client)
        try:
            async for message in client.messages():
                printer.show(message)
                if signals and isinstance(message, wire.CommandResult):
                    signals.answered(message)
                if printer.caught_up and printer.state and printer.state.status in wire.FINAL_STATUSES:
                    return printer.state
        finally:
            if signals:
                signals.disconnected()
            await client.close()


def _restart_supervisor(directory: RunDirectory) -> None:
    from memdash.supervisor.launch import launch_supervisor

    with contextlib.suppress(SupervisorAlreadyRunning):
        launch_supervisor(directory)


class _Printer:
    """Turns messages into lines; knows when the last progress line was printed."""

    def __init__(self, since_s: float, name: str = "") -> None:
        self._since_s = since_s
        self._name = f"{name}: " if name else ""
        self.state: wire.RunState | None = None
        self.caught_up = False
        """Whether all that happened before we came has been shown."""
        self._printed_s = 0.0
        self._journal_seq = 0

    def show(self, message: wire.FromSupervisor) -> None:
        """Print what is worth a line."""
        if isinstance(message, wire.RunState):
            self.state = message
            now_s = asyncio.get_running_loop().time()
            going = message.step or wire.outside_only(message)
            if going and now_s - self._printed_s >= LINE_EVERY_S:
                self._printed_s = now_s
                print(f"{_clock(time.time())}  {self._name}{progress_line(message, time.time())}", flush=True)
        elif isinstance(message, wire.Backfilled):
            self.caught_up = True
        elif isinstance(message, wire.JournalEntry) and message.seq > self._journal_seq:
            self._journal_seq = message.seq
            if message.time_s >= self._since_s:
                text = f"{self._name}[step {message.step}] {message.kind}: {message.text}"
                print(f"{_clock(message.time_s)}  {text}", flush=True)


def _clock(time_s: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(time_s))


def progress_line(state: wire.RunState, now_s: float) -> str:
    """One line that says where a run is and how much memory it has left."""
    parts = [f"step {state.step}/{state.total_steps}"] if state.total_steps else [f"pid {state.pid}"]
    if state.loss is not None:
        parts.append(f"loss {state.loss:.4f}")
    if state.micro_batch:
        parts.append(f"split {state.micro_batch} x {state.grad_accum_steps}")
    if state.items_per_s is not None:
        parts.append(f"{format_count(state.items_per_s)} {state.item_name}/s")
    parts += [*_device_part(state), *_host_part(state)]
    if state.eta_s:
        parts.append(f"ETA {format_duration(state.eta_s)}")
    if state.attempt:
        parts.append(f"attempt {state.attempt}: {format_clock(wire.attempt_s(state, now_s), state.past_s)}")
    if state.status not in ("running", "starting"):
        parts.append(state.status)
    return " | ".join(parts)


def _device_part(state: wire.RunState) -> list[str]:
    memory = state.memory
    headroom = wire.device_headroom_bytes(memory)
    if memory is None or memory.capacity_bytes is None or headroom is None:
        return []
    label = (
        f"{memory.device} (simulated)" if memory.kind == "simulated" and memory.device != "simulated" else memory.device
    )
    peak = format_bytes(memory.peak_allocated_bytes)
    room = _headroom(headroom, memory.capacity_bytes)
    return [f"{label} peak {peak} of {format_bytes(memory.capacity_bytes)}, {room}"]


def _host_part(state: wire.RunState) -> list[str]:
    headroom = wire.host_headroom_bytes(state.host)
    if state.host is None or headroom is None or not state.host.process_bytes:
        return []
    return [f"host {format_bytes(state.host.process_bytes)}, {_headroom(headroom, state.host.capacity_bytes)}"]


def _headroom(headroom_bytes: int, capacity_bytes: int) -> str:
    """The share that is left, and a word when it is little."""
    from memdash.tui.danger import Danger, danger

    level = danger(Danger.NONE, headroom_bytes / capacity_bytes)
    word = {Danger.NONE: "", Danger.LOW: " (low)", Danger.CRITICAL: " (ALMOST FULL)"}[level]
    if headroom_bytes < 0:
        word = " (OVER)"
    return f"headroom {format_percent(headroom_bytes / capacity_bytes)}{word}"


def _verdict(state: wire.RunState) -> str:
    reason = f": {state.status_reason}" if state.status_reason else ""
    took = format_clock(wire.attempt_s(state, state.ended_s), state.past_s) if state.ended_s else "n/a"
    last = state.smoothed_loss if state.smoothed_loss is not None else state.loss
    losses = f", loss {state.first_loss:.4f} -> {last:.4f}" if last is not None and state.first_loss else ""
    losses += "".join(f", validation {name} {value:.4g}" for name, value in state.metrics.items())
    where = f"; {state.run_dir}"
    if state.status in ("failed", "oom", "killed", "lost"):
        where += f"\nwhat it printed: memdash logs {state.run_id}    what happened: memdash report {state.run_id}"
    steps = f"step {state.step} of {state.total_steps} in " if state.total_steps else ""
    return f"{state.run_id} {state.status}{reason}; {steps}{took}{losses}{where}"


def _exit_code(state: wire.RunState) -> int:
    from memdash.supervisor.run_state import outcome_exit_code

    return outcome_exit_code(state)

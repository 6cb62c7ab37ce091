"""The attempts of a run: starts the training process or finds it again, watches it, and launches another when policy says.

Called in the supervisor's process, from its one thread.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from memdash import wire
from memdash.checkpoints import complete
from memdash.errors import MemdashError
from memdash.host.exit_status import process_start
from memdash.host.oom_evidence import OomBaseline, OomWatch
from memdash.host.sampler import HostSampler
from memdash.locations import socket_path
from memdash.store.last_words import forget_last_words, read_last_words
from memdash.store.process_record import ProcessRecord, boot_id, clear_leftovers, write_process
from memdash.store.recorder import recorded_steps
from memdash.store.run_directory import RunDirectory
from memdash.supervisor.adoption import Found, find
from memdash.supervisor.events import LinkChanged, NotHeardOf, RankExited, RankStarted
from memdash.supervisor.output import OutputLog
from memdash.supervisor.policy import GiveUp, Restart, after_failure
from memdash.supervisor.ranks import RankProcess
from memdash.supervisor.run_state import advance, is_final
from memdash.supervisor.telemetry import Telemetry
from memdash.supervisor.verdict import judge

LAST_WORDS_S = 2.0  # a forked child of a dead process may hold its connection open for ever
EVIDENCE_S = 1.0  # the kernel counts a kill, then kills, then writes its log
HEARD_OF_S = 5.0  # a program of the user's that makes a Session later is taken for what it is then
LOOK_BEATS = 10  # between two looks at the kernel's counter
FROM_OUTSIDE = (
    "no memdash.Session so far: watched from outside (host memory, GPUs, output); steps, pauses and checkpoints need one, "
    "and a stop is a SIGTERM"
)


class Attempts:
    """At most one training process at a time; `linked` says whether it is connected."""

    def __init__(
        self, directory: RunDirectory, telemetry: Telemetry, output: OutputLog, linked: Callable[[], bool]
    ) -> None:
        self._directory = directory
        self._record = directory.record()
        self._telemetry = telemetry
        self._output = output
        self._linked = linked
        self._rank: RankProcess | None = None
        self._sampler: HostSampler | None = None
        self._oom = OomWatch(OomBaseline([], {}, None))
        self._ended_at_s: float | None = None
        self._beats = 0
        self._kills = self._kills_told = 0

    @property
    def running(self) -> bool:
        """Whether there is a training process whose end has not been taken in."""
        return self._rank is not None

    def begin(self, found: wire.RunState | None, again: Sequence[str]) -> None:
        """Start the first attempt, find the last one alive, or find it over and start one more if that is wanted.

        Raises MemdashError when the process cannot be started.
        """
        if found is None:
            self._start(0)
            return
        clear_leftovers(self._directory)
        if not is_final(found):
            self._adopt(found)
        if again and not self._rank:
            self._start(found.attempt + 1, again)

    def sample(self) -> None:
        """Read host memory once."""
        if self._rank and self._sampler:
            self._sampler.sample()

    @property
    def pressure_file(self) -> Path | None:
        """What tells how long the training process waits for memory; None while nothing runs."""
        return self._sampler.pressure_file if self._rank and self._sampler else None

    def pressed(self) -> None:
        """The kernel says that processes wait for memory."""
        if self._rank and self._sampler:
            self._sampler.num_alarms += 1
            self._sampler.sample()

    def report(self) -> wire.HostSample | None:
        """Host memory since the last report; None while nothing runs."""
        if not (self._rank and self._sampler):
            return None
        return wire.HostSample(time_s=time.time(), host=self._sampler.report())

    def terminate(self) -> None:
        """Ask the training process to end; it is killed when it does not."""
        if self._rank:
            self._rank.terminate()

    def watch(self, now_s: float) -> None:
        """Notice its end, after its last words; make it end when it was asked to and did not."""
        if self._rank is None:
            return
        if not self._rank.ended():
            self._watch_living(self._rank)
            return
        self._ended_at_s = self._ended_at_s or now_s
        ended_for_s = now_s - self._ended_at_s
        if self._linked() and ended_for_s <= LAST_WORDS_S:
            return
        if ended_for_s <= EVIDENCE_S and self._oom.evidence().log_is_behind:
            return
        self._ended(self._rank)

    def _watch_living(self, rank: RankProcess) -> None:
        if rank.kill_when_due():
            self._telemetry.journal("error", "state", "it did not end when asked: killed")
        state = self._telemetry.state
        if state.own_command and state.status == "starting" and wire.attempt_s(state, time.time()) > HEARD_OF_S:
            self._telemetry.advance(NotHeardOf())
            self._telemetry.journal("info", "state", FROM_OUTSIDE)
        self._beats += 1
        if self._beats % LOOK_BEATS:
            return
        before, self._kills = self._kills, self._oom.kills()
        if before > self._kills_told:  # seen a second ago, and it lives: the kernel took something else
            self._kills_told = before
            self._telemetry.journal("warning", "memory", _struck(self._oom))

    def _adopt(self, found: wire.RunState) -> None:
        adopted = find(self._directory, found)
        for level, text in adopted.story:
            self._telemetry.journal(level, "link", text)
        self._oom, self._rank = adopted.oom, adopted.rank
        if adopted.rank is None:
            self._ended_unseen(adopted)
            return
        self._catch_up()
        self._output.mark(adopted.output_bytes)
        self._telemetry.advance(LinkChanged(linked=False))
        self._sampler = self._sampler_of(adopted.rank.pid)

    def _start(self, attempt: int, arguments: Sequence[str] = (), restart: Restart | None = None) -> None:
        """`arguments` are for the runner; a program of the user's is told by its environment. Raises MemdashError."""
        record = self._record
        environment = {
            # spinning OpenMP threads cost up to 37x the CPU on a busy machine
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONUNBUFFERED": "1",
            **os.environ,
            **record.env,
            "MEMDASH_SOCKET": str(socket_path(record.run_id)),
            "MEMDASH_RUN_ID": record.run_id,
            "MEMDASH_ATTEMPT": str(attempt),
            "MEMDASH_RUN_DIR": str(self._directory.path),
            "MEMDASH_MICRO_BATCH": str(restart.micro_batch or "") if restart else "",
        }
        arguments = () if record.own_command else arguments
        forget_last_words(self._directory)
        self._output.mark()
        argv = [*record.argv, *arguments]
        self._rank = RankProcess.start(argv, environment, record.cwd, self._output.descriptor)
        self._sampler, self._ended_at_s = self._sampler_of(self._rank.pid), None
        self._oom, self._kills, self._kills_told = OomWatch.begin(self._rank.pid), 0, 0
        self._telemetry.advance(
            RankStarted(time_s=time.time(), pid=self._rank.pid, attempt=attempt, by_policy=restart is not None)
        )
        which = f"attempt {attempt} started" if attempt else "training process started"
        which += f": {' '.join(arguments)}" if arguments else ""
        self._telemetry.journal("info", "state", f"{which}, pid {self._rank.pid}")
        self._write_process(attempt, self._rank.pid)
        self._telemetry.flush_state()

    def _write_process(self, attempt: int, pid: int) -> None:
        """For the next supervisor, should this one die."""
        together = self._oom.together()
        if together is not None:
            text = f"one OOM kill in {together.path} ends everything there, the supervisor too (memory.oom.group is 1)"
            self._telemetry.journal("warning", "memory", text)
        baseline = self._oom.baseline
        record = ProcessRecord(
            attempt=attempt,
            pid=pid,
            started=process_start(pid),
            boot_id=boot_id(),
            supervisor_pid=os.getpid(),
            output_bytes=self._output.marked_at,
            cgroups=baseline.cgroups,
            counts=baseline.counts,
            log_number=baseline.log_number,
            kills_together=str(together.path) if together else "",
        )
        with contextlib.suppress(OSError):  # on a full disk a later supervisor knows less
            write_process(self._directory, record)

    def _ended(self, rank: RankProcess) -> None:
        """Take in the end of a process that was watched, and what it could not say in time."""
        for words in read_last_words(self._directory, self._telemetry.state.attempt):
            self._telemetry.take_in(words)
        exited = RankExited(
            time_s=time.time(),
            exit_code=rank.exit_code,
            oom=self._oom.evidence(),
            pids=(rank.pid, *(self._sampler.pids if self._sampler else ())),
            output=self._output.since_mark(),
            shm_peak_bytes=self._sampler.shm_peak_bytes if self._sampler else 0,
        )
        rank.clean_up()
        self._rank = None
        if self._sampler:
            self._sampler.close()
        self._conclude(exited)

    def _ended_unseen(self, found: Found) -> None:
        """Take in the end of a process that nobody watched."""
        self._output.mark(found.output_bytes)
        for words in found.words:
            self._telemetry.take_in(words)
        self._catch_up()
        self._conclude(
            RankExited(
                time_s=found.ended_s,
                exit_code=None,
                oom=self._oom.evidence(),
                output=self._output.since_mark(),
                unseen=found.unseen,
            )
        )

    def _catch_up(self) -> None:
        """Take in what the supervisor before has recorded after it saved the state."""
        attempt, known_s = self._telemetry.state.attempt, self._telemetry.sampled_s(0)
        self._telemetry.catch_up(recorded_steps(self._directory, attempt, known_s))

    def _conclude(self, exited: RankExited) -> None:
        """Say how it ended; or, when policy says so, what comes next, so that nobody takes the run for over."""
        ended = advance(self._telemetry.state, exited)
        if line := judge(self._telemetry.state, exited).log_line:
            self._telemetry.journal("info", "memory", f"the kernel's log: {line}")
        decision = after_failure(ended, restarts=ended.num_restarts, allowed=self._record.restarts)
        if isinstance(decision, Restart):
            self._telemetry.journal("error", "state", f"attempt {ended.attempt} {ended.status}: {ended.status_reason}")
            self._telemetry.journal("warning", "state", decision.why)
            try:
                self._start(ended.attempt + 1, self._restart_arguments(decision), decision)
                return
            except MemdashError as error:  # such as a program that has been removed meanwhile
                decision = GiveUp(f"not restarted: {error}")
        if decision.why:  # before the end is told: whoever follows a run leaves then
            self._telemetry.journal("warning", "state", decision.why)
        self._telemetry.advance(exited)
        forget_last_words(self._directory)

    def _sampler_of(self, pid: int) -> HostSampler:
        return HostSampler(pid, self._record.host_budget_bytes, reset_peaks=self._record.exact_peaks)

    def _restart_arguments(self, decision: Restart) -> list[str]:
        """From the last full checkpoint; from the beginning when there is none."""
        full = any(checkpoint.kind == "full" for checkpoint in complete(self._directory.checkpoints))
        smaller = [] if decision.micro_batch is None else ["--micro-batch", str(decision.micro_batch)]
        return [*(["--resume", "latest"] if full else []), *smaller]


def _struck(oom: OomWatch) -> str:
    """That something of the run's cgroup was killed while the training process lives."""
    evidence = oom.evidence()
    last = evidence.log[-1] if evidence.log else None
    who = f"pid {last.pid} ({last.name})" if last else "a process"
    return f"the kernel's OOM killer took {who} of this run's cgroup; the training process lives"

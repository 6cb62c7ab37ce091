"""The attempts of a run: starts the training process or finds it again, watches it, and launches another when policy says.

Called in the supervisor's process, from its one thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

from memdash import wire
from memdash.checkpoints import complete
from memdash.host.sampler import HostSampler
from memdash.locations import socket_path
from memdash.store.run_directory import RunDirectory
from memdash.supervisor.events import LinkChanged, RankExited, RankStarted
from memdash.supervisor.output import OutputLog, python_error
from memdash.supervisor.policy import Restart, after_failure
from memdash.supervisor.ranks import RankProcess
from memdash.supervisor.run_state import advance, is_final
from memdash.supervisor.telemetry import Telemetry

LAST_WORDS_S = 2.0  # a forked child of a dead process may hold its connection open for ever


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
        self._ended_at_s: float | None = None

    @property
    def running(self) -> bool:
        """Whether there is a training process whose end has not been taken in."""
        return self._rank is not None

    def begin(self, found: wire.RunState | None, again: Sequence[str]) -> None:
        """Start the first attempt, find the last one alive, or find it over and start one more if that is wanted.

        Raises MemdashError when the process cannot be started.
        """
        if found is None:
            self._start(0, [])
            return
        if not is_final(found):
            self._adopt(found)
        if again and not self._rank:
            self._start(found.attempt + 1, again)

    def sample(self) -> None:
        """Read host memory once."""
        if self._rank and self._sampler:
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
        if self._rank.ended():
            self._ended_at_s = self._ended_at_s or now_s
            if not self._linked() or now_s - self._ended_at_s > LAST_WORDS_S:
                self._ended(self._rank)
        elif self._rank.kill_when_due():
            self._telemetry.journal("error", "state", "it did not end when asked: killed")

    def _adopt(self, found: wire.RunState) -> None:
        self._rank = RankProcess.adopt(found.pid, self._record.run_id) if found.pid else None
        if self._rank is None:
            self._telemetry.advance(RankExited(time_s=time.time(), exit_code=None))
            return
        self._telemetry.advance(LinkChanged(linked=False))
        self._sampler = self._sampler_of(self._rank.pid)
        self._telemetry.journal("warning", "link", f"a new supervisor has adopted pid {self._rank.pid}")

    def _start(self, attempt: int, arguments: Sequence[str], *, by_policy: bool = False) -> None:
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
        }
        self._output.mark()
        argv = [*record.argv, *arguments]
        self._rank = RankProcess.start(argv, environment, record.cwd, self._output.descriptor)
        self._sampler, self._ended_at_s = self._sampler_of(self._rank.pid), None
        self._telemetry.advance(
            RankStarted(time_s=time.time(), pid=self._rank.pid, attempt=attempt, by_policy=by_policy)
        )
        which = f"attempt {attempt} started: {' '.join(arguments)}" if attempt else "training process started"
        self._telemetry.journal("info", "state", f"{which}, pid {self._rank.pid}")
        self._telemetry.flush_state()

    def _ended(self, rank: RankProcess) -> None:
        """Say how it ended; or, when policy says so, what comes next, so that nobody takes the run for over."""
        rank.clean_up()
        exited = RankExited(
            time_s=time.time(),
            exit_code=rank.exit_code,
            oom_kills=self._sampler.oom_kills() if self._sampler else 0,
            error=python_error(self._output.since_mark()),
        )
        self._rank = None
        if self._sampler:
            self._sampler.close()
        ended = advance(self._telemetry.state, exited)
        decision = after_failure(ended, restarts=ended.num_restarts, allowed=self._record.restarts)
        if isinstance(decision, Restart):
            self._telemetry.journal("error", "state", f"attempt {ended.attempt} {ended.status}: {ended.status_reason}")
            self._telemetry.journal("warning", "state", decision.why)
            self._start(ended.attempt + 1, self._restart_arguments(decision), by_policy=True)
            return
        if decision.why:  # before the end is told: whoever follows a run leaves then
            self._telemetry.journal("warning", "state", decision.why)
        self._telemetry.advance(exited)

    def _sampler_of(self, pid: int) -> HostSampler:
        return HostSampler(pid, self._record.host_budget_bytes, reset_peaks=self._record.exact_peaks)

    def _restart_arguments(self, decision: Restart) -> list[str]:
        """From the last full checkpoint; from the beginning when there is none."""
        full = any(checkpoint.kind == "full" for checkpoint in complete(self._directory.checkpoints))
        smaller = [] if decision.micro_batch is None else ["--micro-batch", str(decision.micro_batch)]
        return [*(["--resume", "latest"] if full else []), *smaller]

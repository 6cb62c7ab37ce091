"""Records the corpus: `python -m benchmarks.corpus.make [NAME ...]`; without names, what is not there yet.

Every trace is a real process that really allocates, read by the sampler that a supervisor uses, at the supervisor's
pace. It dies of what would kill it anywhere: the kernel's OOM killer in a memory cgroup (v1, which takes root), its own
RLIMIT_AS, the simulated device's capacity; or it is killed at its budget, as a scheduler does. An hour on two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from benchmarks._traces import Fate, Trace, path_of, save
from benchmarks.corpus.loop import DIED
from benchmarks.corpus.scenarios import Scenario
from benchmarks.corpus.splits import MEANT_TO_DIE, SCENARIOS, SPLIT_OF
from memdash import wire
from memdash.host.capacity import CgroupLevel, cgroup_levels, read_field
from memdash.host.sampler import HostSampler

BEAT_S, BEATS_A_REPORT = 0.1, 5  # as the supervisor's
MIB = 1 << 20
ENTER = 'echo 0 > "$0/cgroup.procs" && exec "$@"'
EXIT_S = 10.0
SHORT_S, LONG_S = 300.0, 2300.0
AT_ONCE = {"soak": 60, "long": 20, "host": 4, "device": 6}
"""They sleep most of the time."""


class Cgroup:
    """A memory cgroup of version 1 with a limit, for one trace; raises OSError where it cannot be made."""

    def __init__(self, name: str, limit_bytes: int) -> None:
        parent = next((level for level in cgroup_levels() if level.version == 1), None)
        if parent is None:
            raise OSError("no memory cgroup of version 1 is mounted here")
        self.path = parent.path / f"memdash-corpus-{os.getpid()}-{name}"
        self.path.mkdir()
        level = CgroupLevel(self.path, 1)
        self._events = level.events_file
        level.limit_file.write_text(str(limit_bytes))

    def inside(self, argv: list[str]) -> list[str]:
        """A command that enters it and becomes `argv`."""
        return ["sh", "-c", ENTER, str(self.path), *argv]

    def kills(self) -> int:
        """By the kernel, in here."""
        return read_field(self._events, "oom_kill") or 0

    def remove(self) -> None:
        """End what lives in it, and it."""
        until_s = time.monotonic() + EXIT_S
        while pids := (self.path / "cgroup.procs").read_text().split():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            if time.monotonic() > until_s:
                raise OSError(f"{self.path} does not empty")
            time.sleep(BEAT_S)
        self.path.rmdir()


class Recording:
    """One training process, from its start to its end."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._limit_bytes = int(scenario.limit_mib * MIB)
        self._cgroup = Cgroup(scenario.name, self._limit_bytes) if scenario.ceiling == "cgroup" else None
        self._messages: list[wire.Message] = []
        self._frames = wire.FrameBuffer()
        self._step = 0

    def run(self) -> Trace:
        """Blocks until it is over."""
        neighbour = self._start("--neighbour") if self._scenario.neighbour else None
        process = self._start()
        started_s = time.time()
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        budget = self._limit_bytes if self._scenario.ceiling == "budget" else 0
        sampler = HostSampler(process.pid, budget)
        try:
            fate = self._watch(process, sampler)
        finally:
            sampler.close()
            for each in filter(None, (process, neighbour)):
                each.kill()
                each.wait()
            if self._cgroup is not None:
                self._cgroup.remove()
        kept = [message for message in self._messages if _time_s(message) <= fate.time_s]
        kept.sort(key=_time_s)
        return Trace(self._scenario.name, started_s, fate, kept)

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "benchmarks.corpus.child", self._scenario.name, *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        return subprocess.Popen(
            self._cgroup.inside(argv) if self._cgroup else argv,
            stdout=subprocess.DEVNULL if arguments else subprocess.PIPE,
            env=environment,
            preexec_fn=lambda: self._prepare(is_neighbour=bool(arguments)),
            start_new_session=True,
        )

    def _prepare(self, *, is_neighbour: bool) -> None:
        """In the child, before it is a training process: killed first, as a supervisor sees to it."""
        if not is_neighbour:
            Path("/proc/self/oom_score_adj").write_text("500")
        if self._scenario.ceiling == "RLIMIT_AS":
            resource.setrlimit(resource.RLIMIT_AS, (self._limit_bytes, resource.RLIM_INFINITY))

    def _watch(self, process: subprocess.Popen[bytes], sampler: HostSampler) -> Fate:
        beats, next_s = 0, time.monotonic()
        while True:
            beats += 1
            next_s = max(next_s + BEAT_S, time.monotonic())
            sampler.sample()
            if beats % BEATS_A_REPORT == 0 and process.poll() is None:
                self._messages.append(wire.HostSample(time_s=time.time(), host=sampler.report()))
            self._read(process)
            if fate := self._fate(process):
                return fate
            time.sleep(max(0.0, next_s - time.monotonic()))

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for frame in self._frames.feed(process.stdout.read() or b""):
            message = wire.decode(wire.from_rank, frame)
            self._messages.append(message)
            if isinstance(message, wire.StepReport):
                self._step = message.step

    def _fate(self, process: subprocess.Popen[bytes]) -> Fate | None:
        """How it ended; None while it goes on."""
        if self._cgroup is not None and self._cgroup.kills():
            return Fate("host", "the kernel's OOM killer, in a memory cgroup", time.time(), self._step + 1)
        last = next((message for message in reversed(self._messages) if isinstance(message, wire.HostSample)), None)
        if self._scenario.ceiling == "budget" and last and last.host.working_set_bytes > self._limit_bytes:
            return Fate("host", "killed at its budget", time.time(), self._step + 1)
        exit_code = process.poll()
        if exit_code is None:
            return None
        self._read(process)
        report = next((message for message in self._messages if isinstance(message, wire.OomReport)), None)
        if exit_code == DIED and report is not None:
            return Fate("device" if self._scenario.on_device else "host", report.message, report.time_s, report.step)
        if exit_code == 0:
            return Fate("", "trained to its end", time.time(), self._step)
        raise RuntimeError(f"{self._scenario.name} ended with {exit_code}, at step {self._step}")


def _time_s(message: wire.Message) -> float:
    return float(getattr(message, "time_s", 0.0))


def record(scenario: Scenario) -> str:
    """Record and save one; what became of it, in words."""
    trace = Recording(scenario).run()
    outcome = f"{trace.fate.died_of or 'healthy'} after {trace.seconds:.0f} s, step {trace.fate.step}"
    if trace.name in MEANT_TO_DIE and not trace.fate.died_of:
        return f"{trace.name}: {outcome}: not kept, for it was dying"
    if trace.fate.step <= 1:
        return f"{trace.name}: {outcome}: not kept, for it never trained"
    size = save(trace, SPLIT_OF[trace.name]).stat().st_size
    return f"{trace.name}: {outcome}, {size} bytes ({trace.fate.how})"


def batches(names: list[str]) -> Iterator[tuple[list[Scenario], int]]:
    """What is to be recorded at once, and how many of it at a time."""
    wanted = [SCENARIOS[name] for name in names] or [
        scenario for name, scenario in SCENARIOS.items() if not path_of(name, SPLIT_OF[name]).exists()
    ]
    short = [scenario for scenario in wanted if scenario.seconds <= SHORT_S]
    yield [scenario for scenario in wanted if scenario.seconds > LONG_S], AT_ONCE["soak"]
    yield [scenario for scenario in wanted if SHORT_S < scenario.seconds <= LONG_S], AT_ONCE["long"]
    yield [scenario for scenario in short if not scenario.on_device], AT_ONCE["host"]
    yield [scenario for scenario in short if scenario.on_device], AT_ONCE["device"]


def main() -> None:
    """Record, and say what came of each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus.make", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*SCENARIOS, []], help="traces to record anew")
    names = parser.parse_args().names
    with contextlib.ExitStack() as pools:
        for scenarios, at_once in batches(names):
            pool = pools.enter_context(ThreadPoolExecutor(at_once))
            for scenario in scenarios:
                pool.submit(record, scenario).add_done_callback(_say)


def _say(done: Future[str]) -> None:
    error = done.exception()
    print(f"failed: {error!r}" if error else done.result(), flush=True)


if __name__ == "__main__":
    main()

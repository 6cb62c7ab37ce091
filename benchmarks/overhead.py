"""What watching costs: steps per CPU-second with the agent and without, one report, the supervisor, and peers beside them.

CPU-seconds are those of all threads of the training process. Sides take turns in short slices, and a ratio is the median
over pairs of slices of the same round, because the machine changes from minute to minute.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._home import home
from benchmarks._table import Row, Value, main, not_measured, row
from memdash import wire
from memdash.host.sampler import HostSampler
from memdash.locations import runs_dir
from memdash.store.run_directory import RunDirectory, RunRecord, create_run
from memdash.supervisor.launch import launch_supervisor

ROOT = Path(__file__).parents[1]
WAIT_S = 900.0
REPORT_AIM_US = 10.0
ALL_AIM = 0.0005
"""Of a step of 50 ms."""
PEERS = {
    "psutil": "psutil in a thread, 10 Hz",
    "tracker": "transformers TrainerMemoryTracker",
}
SAMPLES_HZ = (2, 10, 50)
POLL = "psutil: the tree and the machine"

Slice = dict[str, Any]


def measure(quick: bool) -> list[Row]:
    """The stepper under a real supervisor, then the supervisor's sampler alone."""
    with home() as path:
        found = _stepped(path, rounds=2 if quick else 15)
        sampling = [_sampling(hz, 1.0 if quick else 5.0) for hz in SAMPLES_HZ]
    slices: list[Slice] = found["slices"]
    rows = [line for step_s in sorted({each["step_s"] for each in slices}) for line in _steps(slices, step_s)]
    return [*rows, *_reports(found), *_supervisor(found), *sampling]


def _stepped(path: Path, rounds: int) -> dict[str, Any]:
    """What _stepper.py found out."""
    results = path / "results.json"
    argv = [sys.executable, "-m", "benchmarks._stepper", str(results), str(rounds)]
    record = RunRecord(run_id="stepper", name="stepper", created_s=time.time(), argv=argv, cwd=str(ROOT))
    directory = create_run(record, config_json=b"{}", config_toml="", parent=runs_dir())
    launch_supervisor(directory)
    deadline_s = time.monotonic() + WAIT_S
    while not _is_over(directory):
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the stepper took more than {WAIT_S:.0f} s")
        time.sleep(0.2)
    if not results.exists():
        raise RuntimeError(directory.output.read_text())
    found: dict[str, Any] = json.loads(results.read_text())
    state = directory.state()
    reported = sum(each["steps"] for each in found["slices"] if each["side"] in ("agent", "simulated"))
    if state is None or state.step < reported:
        raise RuntimeError(f"the supervisor has heard of {state.step if state else 0} of {reported} steps")
    return found


def _is_over(directory: RunDirectory) -> bool:
    state = directory.state()
    return state is not None and state.status in wire.FINAL_STATUSES


# ---- steps per CPU-second --------------------------------------------------------------------------------------------


def _steps(slices: list[Slice], step_s: float) -> list[Row]:
    """The agent against nothing and against peers, the simulated device against the CPU; and nothing against nothing."""
    figure = f"steps per CPU-second, step of {step_s * 1e3:.0f} ms"
    rates = {side: _rates(slices, step_s, side) for side in {each["side"] for each in slices}}
    rows = [_paired(f"{figure}: agent on", rates["agent"], rates["off"], "agent off", 0.99)]
    rows += [_paired(f"{figure}: agent on", rates["agent"], rates[side], name, 0.99) for side, name in PEERS.items()]
    rows.append(_paired(f"{figure}: agent off, the noise", rates["off again"], rates["off"], "agent off", 0.99))
    rows.append(_paired(f"{figure}: simulated device, agent on", rates["simulated"], rates["off"], "agent off", 0.9))
    return rows


def _rates(slices: list[Slice], step_s: float, side: str) -> list[float]:
    """Of each round."""
    return [each["steps"] / each["cpu_s"] for each in slices if (each["step_s"], each["side"]) == (step_s, side)]


def _paired(figure: str, ours: list[float], peer: list[float], peer_name: str, bound: float) -> Row:
    ratio = statistics.median(mine / theirs for mine, theirs in zip(ours, peer, strict=True))
    median = statistics.median
    return Row(figure, median(ours), median(peer), peer_name, ratio, f"ratio >= {bound:g}", ratio >= bound)


# ---- one report ------------------------------------------------------------------------------------------------------


def _reports(found: dict[str, Any]) -> list[Row]:
    """In the training thread; the limit is the aim itself."""
    rows = []
    for kind in ("host only", "simulated", "CUDA"):
        warm: Value = found["warm_us"].get(kind, not_measured("no CUDA device here"))
        rows.append(row(f"one report, {kind}, µs", warm, REPORT_AIM_US, "the aim", "ours", "<=", REPORT_AIM_US))
    for kind, spent_us in found["in_step_us"].items():
        figure = f"one report right after a step, {kind}, µs"
        rows.append(row(figure, spent_us, REPORT_AIM_US, "the aim", "ours", "<=", REPORT_AIM_US))
    return rows


def _supervisor(found: dict[str, Any]) -> list[Row]:
    """What it costs by the second and by the step, and all of it together in a step of 50 ms."""
    slices: list[Slice] = found["slices"]
    idle = statistics.median(each["supervisor_s"] / each["wall_s"] for each in slices if each["side"] == "off")
    by_step = statistics.median(
        (each["supervisor_s"] - idle * each["wall_s"]) / each["steps"]
        for each in slices
        if each["side"] == "agent" and each["step_s"] == min(one["step_s"] for one in slices)
    )
    report_s = found["in_step_us"]["host only"] * 1e-6
    step_s = 0.05
    everything = (report_s + by_step) / step_s + idle
    limit = f"{ALL_AIM:.2%} of a 50 ms step"
    return [
        row("supervisor, share of a core between reports", idle, ALL_AIM, limit, "ours", "<=", ALL_AIM),
        row("supervisor, one report, µs", by_step * 1e6, ALL_AIM * step_s * 1e6, limit, "ours", "<=", 25),
        row("report, share of a 50 ms step", report_s / step_s, ALL_AIM, limit, "ours", "<=", ALL_AIM),
        row("report and supervisor, share of a 50 ms step", everything, ALL_AIM, limit, "ours", "<=", ALL_AIM),
    ]


# ---- host memory from outside ----------------------------------------------------------------------------------------


def _sampling(hz: float, seconds: float) -> Row:
    """The sampler alone, at rates of which the supervisor's is 10 Hz, and what psutil would take for less."""
    import psutil

    sampler, process = HostSampler(os.getpid()), psutil.Process()

    def poll() -> None:
        for each in (process, *process.children(recursive=True)):
            each.memory_info()
        psutil.virtual_memory()

    try:
        ours, theirs = _paced((sampler.sample, poll), hz, seconds)
    finally:
        sampler.close()
    return row(f"host memory sampled at {hz} Hz, share of a core", ours, theirs, POLL, "ratio", "<=", 1)


def _paced(calls: tuple[Callable[[], object], ...], hz: float, seconds: float) -> list[float]:
    """CPU-seconds a second of each call, made in turn at that rate, after a sleep as in life."""
    spent: list[list[float]] = [[] for _ in calls]
    for _ in range(max(4, round(hz * seconds))):
        for call, times in zip(calls, spent, strict=True):
            time.sleep(1 / hz / len(calls))
            began_s = time.thread_time()
            call()
            times.append(time.thread_time() - began_s)
    return [statistics.mean(times) * hz for times in spent]


if __name__ == "__main__":
    sys.exit(main("overhead", __doc__ or "", measure))

"""What watching costs: steps per CPU-second with the agent and without, one report, the supervisor, and peers beside them.

With the supervisor's own CPU-seconds in the sum at 2, 10 and 50 Hz of host sampling, of which 10 is its own.

CPU-seconds are those of all threads of the training process. Sides take turns in short slices, and a ratio is the median
over pairs of slices of the same round, because the machine changes from minute to minute.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import _pulse
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
IDLE_AIM = 0.003
RIVAL_S = 600.0
POLL = "psutil: the tree and the machine"

Slice = dict[str, Any]


def measure(quick: bool) -> list[Row]:
    """The stepper under a real supervisor, supervisors alone at each rate, then the sampler alone."""
    with home() as path:
        shares = _pulse.run(path, SAMPLES_HZ, 1.0 if quick else 20.0)
        found = _stepped(path, rounds=2 if quick else 15)
        rival = "only without --quick" if quick else _rival(path, rounds=5)
        sampling = [_sampling(hz, 1.0 if quick else 5.0) for hz in SAMPLES_HZ]
    slices: list[Slice] = found["slices"]
    rows = []
    for step_s in sorted({each["step_s"] for each in slices}):
        rows += [*_steps(slices, step_s), *_together(slices, shares, step_s), _against_rival(slices, rival, step_s)]
    return [*rows, *_reports(found), *_supervisor(found, shares), *sampling]


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


def _together(slices: list[Slice], shares: dict[tuple[int, float], float], step_s: float) -> list[Row]:
    """Trainer and supervisor in one sum: what watching costs the machine. On CUDA nobody has measured it yet."""
    off = statistics.median(_rates(slices, step_s, "off"))
    kinds = {"agent": "host only", "simulated": "simulated device"}
    figure = f"steps per CPU-second of trainer and supervisor, step of {step_s * 1e3:.0f} ms"
    rows = []
    for side, kind in kinds.items():
        kept = statistics.median(
            mine / theirs
            for mine, theirs in zip(_rates(slices, step_s, side), _rates(slices, step_s, "off"), strict=True)
        )
        for hz in SAMPLES_HZ:
            on = 1 / (1 / (off * kept) + shares[hz, step_s] * step_s)
            bound = 0.99 if side == "agent" else 0.9
            name = f"{figure}: {kind}, {hz} Hz"
            rows.append(Row(name, on, off, "agent off", on / off, f"ratio >= {bound:g}", on / off >= bound))
    cuda = not_measured("no CUDA device here" if not _has_cuda() else "this benchmark trains on the CPU")
    return [*rows, row(f"{figure}: CUDA, 10 Hz", cuda, off, "agent off", "ratio", ">=", 0.99)]


def _has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


# ---- a rival's agent -------------------------------------------------------------------------------------------------


def _rival(path: Path, rounds: int) -> dict[str, list[Slice]] | str:
    """TraceML's cost on the same steps, with it and without it at the same time; why not, where it does not run."""
    launcher = shutil.which("traceml")
    if launcher is None:
        return "not installed: pip install traceml-ai"
    script = str(ROOT / "benchmarks" / "_rival.py")
    sides = {"on": [launcher, "run", script], "off": [sys.executable, script]}
    started = {}
    for side, argv in sides.items():
        env = {**os.environ, "RIVAL_ROUNDS": str(rounds), "RIVAL_RESULTS": str(path / f"rival-{side}.json")}
        env |= {"RIVAL_TRACED": "1"} if side == "on" else {}
        started[side] = subprocess.Popen(argv, cwd=path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for process in started.values():
        process.wait(RIVAL_S)
    try:
        return {side: json.loads((path / f"rival-{side}.json").read_text()) for side in sides}
    except OSError:
        return "its aggregator did not start"


def _against_rival(slices: list[Slice], rival: dict[str, list[Slice]] | str, step_s: float) -> Row:
    """What share of the steps is left with our agent, beside what share is left with theirs."""
    ours = statistics.median(
        mine / theirs
        for mine, theirs in zip(_rates(slices, step_s, "agent"), _rates(slices, step_s, "off"), strict=True)
    )
    figure = f"share of the steps per CPU-second that is left, step of {step_s * 1e3:.0f} ms"
    if isinstance(rival, str):
        return row(figure, ours, not_measured(rival), "TraceML", "ratio", ">=", 0.99)
    on, off = (
        statistics.median(each["steps"] / each["cpu_s"] for each in rival[side] if each["step_s"] == step_s)
        for side in ("on", "off")
    )
    return row(figure, ours, on / off, "TraceML", "ratio", ">=", 0.99)


# ---- one report ------------------------------------------------------------------------------------------------------


def _reports(found: dict[str, Any]) -> list[Row]:
    """In the training thread; the limit is the aim itself."""
    rows = []
    for kind in ("host only", "simulated", "CUDA"):
        warm: Value = found["warm_us"].get(kind, not_measured("no CUDA device here"))
        rows.append(row(f"one report, {kind}, µs", warm, REPORT_AIM_US, "the aim", "ours", "<=", REPORT_AIM_US))
    for kind, spent_us in found["in_step_us"].items():
        what = "the clock alone" if kind == "nothing" else f"one report, {kind}"
        figure = f"right after a step: {what}, µs"
        rows.append(row(figure, spent_us, REPORT_AIM_US, "the aim", "ours", "<=", REPORT_AIM_US))
    return rows


def _supervisor(found: dict[str, Any], shares: dict[tuple[int, float], float]) -> list[Row]:
    """What it costs by the second and by the step, and all of it together in a step of 50 ms."""
    step_s, own_hz = 0.05, 10
    idle, busy, fast = shares[own_hz, 0.0], shares[own_hz, step_s], shares[own_hz, 0.005]
    report_s = found["in_step_us"]["host only"] * 1e-6
    limit = f"{ALL_AIM:.2%} of a 50 ms step"
    rows = [
        row(
            f"supervisor without steps at {hz} Hz, share of a core",
            shares[hz, 0.0],
            IDLE_AIM,
            "0.3 % of a core",
            "ours",
            "<=",
            IDLE_AIM,
        )
        for hz in SAMPLES_HZ
    ]
    return [
        *rows,
        row(
            "supervisor, one report at 20 steps/s, µs",
            (busy - idle) * step_s * 1e6,
            ALL_AIM * step_s * 1e6,
            limit,
            "ours",
            "<=",
            25,
        ),
        row(
            "supervisor, one report at 200 steps/s, µs",
            (fast - idle) * 0.005 * 1e6,
            ALL_AIM * step_s * 1e6,
            limit,
            "ours",
            "<=",
            25,
        ),
        row("report, share of a 50 ms step", report_s / step_s, ALL_AIM, limit, "ours", "<=", ALL_AIM),
        row(
            "report and supervisor, share of a 50 ms step",
            report_s / step_s + busy,
            ALL_AIM,
            limit,
            "ours",
            "<=",
            ALL_AIM,
        ),
        row(
            "a Python that only wakes, ten times a second, share of a core",
            _waking(),
            ALL_AIM,
            limit,
            "ours",
            "<=",
            ALL_AIM,
        ),
    ]


def _waking() -> float:
    """The floor: nothing is done but to wake up from a sleep, with caches as others have left them."""
    began_s, beats = time.thread_time(), 20
    for _ in range(beats):
        time.sleep(0.1)
    return (time.thread_time() - began_s) / beats * 10


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

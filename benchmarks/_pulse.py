"""A training process that only sleeps: what its supervisor costs at a host sampling rate and at a pace of steps.

`python -m benchmarks._pulse RESULTS SECONDS` is the training process; `run` starts one for each rate, all at the same time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from memdash.agent.session import Session
from memdash.store.run_directory import RunRecord, create_run

ROOT = Path(__file__).parents[1]
PACES_S = (0.0, 0.005, 0.05, 0.5)
"""Seconds a step; 0 is no steps at all."""
WARM_S = 2.0
_SUPERVISE = """
import sys
from pathlib import Path
import memdash.supervisor.main as main
from memdash.store.run_directory import RunDirectory
main.BEAT_S, main.LAST_VIEWER_S = 1 / float(sys.argv[2]), 0.1
main.supervise(RunDirectory(Path(sys.argv[1])))
"""


def run(home: Path, rates_hz: tuple[int, ...], seconds: float) -> dict[tuple[int, float], float]:
    """Share of a core that a supervisor takes, by its rate and the pace of steps. Raises RuntimeError."""
    runs = {}
    for hz in rates_hz:
        results = home / f"pulse-{hz}.json"
        argv = [sys.executable, "-m", "benchmarks._pulse", str(results), str(seconds)]
        record = RunRecord(run_id=f"pulse-{hz}", name="pulse", created_s=time.time(), argv=argv, cwd=str(ROOT))
        directory = create_run(record, config_json=b"{}", config_toml="", parent=home / "runs")
        argv = [sys.executable, "-c", _SUPERVISE, str(directory.path), str(hz)]
        runs[hz] = (results, subprocess.Popen(argv, cwd=ROOT, start_new_session=True))
    found = {}
    for hz, (results, supervisor) in runs.items():
        if supervisor.wait(120 + len(PACES_S) * seconds):
            raise RuntimeError(f"the supervisor at {hz} Hz ended with {supervisor.returncode}")
        found |= {(hz, float(pace)): share for pace, share in json.loads(results.read_text()).items()}
    return found


def process_cpu_s(pid: int) -> float:
    """Of all threads of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def main() -> None:
    """Each pace for so many seconds."""
    results, seconds = Path(sys.argv[1]), float(sys.argv[2])
    session = Session()
    session.start(total_steps=1_000_000, global_batch=16, micro_batch=16, model="pulse", device="cpu")
    shares = {}
    for pace_s in PACES_S:
        _steps(session, pace_s, WARM_S if pace_s == 0 else 0.2)
        began_s, spent_s = time.monotonic(), process_cpu_s(os.getppid())
        _steps(session, pace_s, seconds)
        shares[pace_s] = (process_cpu_s(os.getppid()) - spent_s) / (time.monotonic() - began_s)
    results.write_text(json.dumps(shares))
    session.finish()


def _steps(session: Session, pace_s: float, seconds: float) -> None:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        time.sleep(pace_s or 0.1)
        if pace_s:
            session.end_step(
                loss=1.2345, step_time_s=pace_s, examples_seen=16, micro_batch=16, grad_accum_steps=1,
                learning_rate=1e-3, grad_norm=0.5, num_items=1000, longest=128,
            )  # fmt: skip


if __name__ == "__main__":
    main()

"""What the supervisor pays for reading GPUs, beside one that runs at the same time and finds no driver.

The driver is the stand-in of the tests, which answers at once: ours is the CPU time, not a real driver's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from benchmarks._home import home
from benchmarks._table import Row, main, not_measured, row
from memdash.locations import runs_dir
from memdash.store.run_directory import RunDirectory, RunRecord, create_run
from memdash.supervisor.launch import launch_supervisor

SOURCE = Path(__file__).parents[1] / "tests/programs/nvml_standin.c"
COUNTS = (1, 2, 8)
SETTLED_S = 3.0  # after its imports and its first readings
CPU_LIMIT = 5.0  # ms a second: half a percent of a core
MEMORY_LIMIT = 8.0  # MB
PEER = "no driver"


class Supervised:
    """A supervisor of a training process that does nothing."""

    def __init__(self, run_id: str, **environment: str) -> None:
        record = RunRecord(run_id=run_id, name=run_id, created_s=time.time(), argv=["sleep", "3600"], cwd="/")
        self._directory: RunDirectory = create_run(record, config_json=b"{}", config_toml="", parent=runs_dir())
        os.environ.update(environment)
        launch_supervisor(self._directory)
        for name in environment:
            del os.environ[name]
        self._proc = Path(f"/proc/{self._directory.lock.read_text().strip()}")

    def cpu_s(self) -> float:
        """Of all its threads."""
        return sum(int((task / "schedstat").read_text().split()[0]) for task in (self._proc / "task").iterdir()) / 1e9

    def memory_mb(self) -> float:
        """Its own, without what it shares with others."""
        lines = (self._proc / "smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024 / 1e6

    def end(self) -> None:
        """Both of them."""
        state = self._directory.state()
        for pid in (int(self._proc.name), state.pid if state else None):
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def measure(quick: bool) -> list[Row]:
    """For each number of GPUs a pair of supervisors at the same time."""
    if shutil.which("gcc") is None:
        why = not_measured("no gcc to build the stand-in for a driver")
        return [Row("watching GPUs", why, "-", PEER, None, "-", None)]
    with home() as path:
        library = path / "libnvidia-ml.so.1"
        flags = ("-std=c11", "-D_GNU_SOURCE", "-O2", "-shared", "-fPIC")
        subprocess.run(["gcc", *flags, "-o", library, SOURCE], check=True)
        return [line for count in COUNTS for line in _rows(count, path, 5.0 if quick else 30.0)]


def _rows(count: int, library: Path, seconds: float) -> list[Row]:
    processes = ",".join(f"{gpu}/{pid}/1000000000" for gpu in range(count) for pid in (1, 2, 3))
    scenario = f"gpus={count} procs={processes}"
    pair = [
        Supervised(f"with-{count}", LD_LIBRARY_PATH=str(library), NVML_STANDIN=scenario),
        Supervised(f"without-{count}"),
    ]
    try:
        time.sleep(SETTLED_S)
        before, began_s = [each.cpu_s() for each in pair], time.monotonic()
        time.sleep(seconds)
        took_s = time.monotonic() - began_s
        ours, theirs = ((each.cpu_s() - start) / took_s * 1e3 for each, start in zip(pair, before, strict=True))
        memory, without = (each.memory_mb() for each in pair)
    finally:
        for each in pair:
            each.end()
    name = f"{count} GPU{'s' * (count > 1)}"
    return [
        row(f"{name}: CPU of watching them, ms a second", ours - theirs, theirs, PEER, "ours", "<=", CPU_LIMIT),
        row(f"{name}: memory of watching them, MB", memory - without, without, PEER, "ours", "<=", MEMORY_LIMIT),
    ]


if __name__ == "__main__":
    sys.exit(main("gpus", __doc__ or "", measure))

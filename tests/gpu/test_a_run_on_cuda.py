"""`memdash run` on a real device, end to end: it trains there, within its cap, and exact figures are on record."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from memdash.errors import ExitCode
from memdash.store.recorder import recorded_ranks
from memdash.store.run_directory import RunDirectory, list_runs

pytestmark = pytest.mark.timeout(300)
TOY = Path(__file__).parents[1] / "runner" / "toy_task.py"
CONFIG = """
[run]
name = "on-cuda"
[task]
name = "toy_task:toy"
options = { width = 256, count = 64, dtype = "float32" }
[train]
global_batch = 16
max_steps = 12
eval_every = 6
[device]
kind = "cuda"
capacity = "1GiB"
"""


def run(folder: Path) -> tuple[subprocess.CompletedProcess[str], RunDirectory]:
    shutil.copy(TOY, folder)
    (folder / "run.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "memdash", "run", str(folder / "run.toml"), "--headless"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    return done, list_runs()[0]


def test_a_run_trains_on_the_device_and_its_figures_are_exact(tmp_path: Path) -> None:
    done, directory = run(tmp_path)
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    state = directory.state()
    assert state is not None
    assert (state.device, state.step, state.status) == ("cuda:0", 12, "finished")
    assert state.memory is not None
    assert (state.memory.kind, state.memory.device) == ("exact", "cuda:0")
    steps = [row for _, row in recorded_ranks(directory) if row["loss"] is not None]
    assert len(steps) == 12
    for row in steps:
        allocated, peak = row["allocated_bytes"] or 0, row["peak_allocated_bytes"] or 0
        assert 0 < allocated <= peak <= (row["peak_reserved_bytes"] or 0) <= 1 << 30
    assert list(directory.checkpoints.glob("*/manifest.json"))

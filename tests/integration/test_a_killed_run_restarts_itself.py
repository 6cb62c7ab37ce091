"""`[on_failure] restart = 1` with the real runner: kill -9 of the trainer costs the steps since the last checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from memdash.errors import ExitCode
from memdash.store.journal import read_journal
from memdash.store.recorder import recorded_ranks
from memdash.store.run_directory import list_runs
from tests.conftest import wait_until

pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
SETS = (
    "train.max_steps=60",
    "train.threads=1",
    "train.eval_every=0",
    "checkpoint.every_steps=10",
    "on_failure.restart=1",
)


def test_a_killed_run_restarts_itself():
    sets = [word for override in SETS for word in ("--set", override)]
    argv = [sys.executable, "-m", "memdash", "run", str(ROOT / "examples/demo.toml"), "--headless", *sets]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    wait_until(lambda: list_runs() and list_runs()[0].state(), "the run", 60)
    run = list_runs()[0]
    wait_until(lambda: list(run.checkpoints.glob("*-full/manifest.json")), "a full checkpoint", 120)
    os.kill(run.state().pid, signal.SIGKILL)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == ExitCode.OK, out
    state = run.state()
    assert (state.status, state.attempt, state.num_restarts, state.step) == ("finished", 1, 1, 60)
    journal = [entry.text for entry in read_journal(run.journal)]
    assert any(text.startswith("restart 1 of 1 after: killed by SIGKILL") for text in journal)
    last = {int(row["step"]): int(row["attempt"]) for _, row in recorded_ranks(run) if row["loss"] is not None}
    assert sorted(last) == list(range(1, 61))
    assert state.examples_seen == 60 * state.global_batch

"""`memdash run --resume` as a person types it: after kill -9, after the end, with another config, with damaged files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from memdash.checkpoints import complete
from memdash.errors import ExitCode
from memdash.store.journal import read_journal
from memdash.store.run_directory import RunDirectory, find_run, list_runs
from tests.conftest import wait_until

pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

HERE = Path(__file__).parent
TIMEOUT_S = 60.0
CONFIG = """
[run]
name = "toy"
[task]
name = "toy_task:toy"
options = { dropout = 0.3, batch_norm = true }
[train]
global_batch = 3
micro_batch = 2
max_steps = 1500
eval_every = 100
threads = 1
[device]
kind = "cpu"
[checkpoint]
every_steps = 150
at_end = "full"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    shutil.copy(HERE.parent / "runner" / "toy_task.py", tmp_path)
    (tmp_path / "toy.toml").write_text(CONFIG)
    return tmp_path / "toy.toml"


def memdash(*words: str) -> list[str]:
    return [sys.executable, "-m", "memdash", *words]


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(memdash(*words), capture_output=True, text=True, timeout=TIMEOUT_S)


def kill_when(directory: RunDirectory, count: int) -> None:
    """kill -9 the training process once it has saved so many checkpoints."""
    wait_until(lambda: len(complete(directory.checkpoints)) >= count, f"{count} checkpoints", TIMEOUT_S)
    state = directory.state()
    assert state is not None
    assert state.pid
    os.kill(state.pid, signal.SIGKILL)


def status(directory: RunDirectory) -> str:
    state = directory.state()
    return state.status if state else ""


def final_state(directory: RunDirectory) -> tuple[bytes, bytes]:
    path = next(found.path for found in complete(directory.checkpoints) if found.reason == "end")
    assert path.name == "step-00001500-full"
    return (path / "model.safetensors").read_bytes(), (path / "state.safetensors").read_bytes()


def test_a_killed_run_ends_bitwise_as_one_that_was_not(config: Path) -> None:
    started = [memdash("run", str(config), "--detach", "--set", f"run.name={name}") for name in ("calm", "killed")]
    calm, directory = (
        find_run(subprocess.check_output(words, text=True, timeout=TIMEOUT_S).strip()) for words in started
    )
    kill_when(directory, 1)
    wait_until(lambda: status(directory) == "killed", "the end of the training process")
    before = complete(directory.checkpoints)[0].step

    done = call("run", "--resume", directory.run_id, "--headless")
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    assert f"resumed from step-{before:08d}-full at step {before}\n" in done.stdout
    state = directory.state()
    assert state is not None
    assert (state.attempt, state.status, state.step) == (1, "finished", 1500)
    wait_until(lambda: status(calm) == "finished", "the other run's end", TIMEOUT_S)
    assert final_state(directory) == final_state(calm)

    again = call("run", "--resume", str(directory.path), "--headless")
    assert (again.returncode, again.stderr) == (ExitCode.OK, "")
    assert "all 1500 steps are trained, and nothing is left to do" in again.stdout
    assert directory.state() == state


def test_another_config_for_the_next_attempt(config: Path) -> None:
    assert call("run", str(config), "--headless", "--set", "train.max_steps=20").returncode == ExitCode.OK
    directory = list_runs()[0]
    refused = call("run", "--resume", directory.run_id, "--headless", "--set", "train.global_batch=4")
    assert refused.returncode == ExitCode.USAGE
    assert "`train.global_batch` cannot change within a run" in refused.stderr
    assert not (directory.path / "config-0.json").exists()

    changes = ["train.max_steps=30", "train.micro_batch=3", "train.learning_rate=0.002", "checkpoint.at_end=light"]
    changes += ["on_failure.restart=2", "budget.wall=1h"]
    more = call("run", "--resume", directory.run_id, "--headless", *(w for c in changes for w in ("--set", c)))
    assert more.returncode == ExitCode.OK, more.stdout + more.stderr
    words = "resumed from step-00000020-full at step 20; not bitwise, because total_steps and learning_rate changed"
    assert words in more.stdout
    state = directory.state()
    assert state is not None
    assert (state.attempt, state.step, state.micro_batch) == (1, 30, 3)
    assert (directory.record().restarts, directory.record().wall_s) == (2, 3600.0)
    assert json.loads((directory.path / "config-0.json").read_bytes())["train"]["max_steps"] == 20

    (directory.checkpoints / "step-00000030-light" / "manifest.json").unlink()
    warm = call("run", "--warm-start", directory.run_id, "--headless", "--set", "train.max_steps=40")
    assert warm.returncode == ExitCode.OK, warm.stdout + warm.stderr
    assert "step-00000030-light: incomplete" in warm.stdout
    assert "warm start from step-00000020-full at step 20" in warm.stdout
    assert any("passed over for the one before" in entry.text for entry in read_journal(directory.journal))


def test_what_cannot_go_on_says_so_before_anything_is_started(config: Path) -> None:
    at_end = "checkpoint.at_end=light"
    assert call("run", str(config), "--headless", "--set", "train.max_steps=5", "--set", at_end).returncode == 0
    directory = list_runs()[0]
    more = ["--headless", "--set", "train.max_steps=9"]
    none = call("run", "--resume", directory.run_id, *more)
    assert none.returncode == ExitCode.STORE
    assert "there is no complete full checkpoint" in none.stderr
    assert "--warm-start" in none.stderr
    named = call("run", "--resume", directory.run_id, *more, "--checkpoint", "step-00000005-light")
    assert named.returncode == ExitCode.USAGE
    assert "it holds weights only" in named.stderr
    unknown = call("run", "--resume", directory.run_id, *more, "--checkpoint", "step-00000004-full")
    assert unknown.returncode == ExitCode.USAGE
    assert "no such checkpoint" in unknown.stderr
    state = directory.state()
    assert state is not None
    assert state.attempt == 0

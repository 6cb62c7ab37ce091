"""`memdash run CONFIG --headless` with the real runner: exit code, falling loss, everything on disk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from memdash.errors import ExitCode
from memdash.store.recorder import recorded_hosts, recorded_ranks
from memdash.store.run_directory import RunDirectory, list_runs

pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
SMALL = ["train.threads=1", "train.eval_every=0"]


def run(config: str, *overrides: str) -> tuple[subprocess.CompletedProcess[str], RunDirectory]:
    sets = [word for override in (*SMALL, *overrides) for word in ("--set", override)]
    done = subprocess.run(
        [sys.executable, "-m", "memdash", "run", str(ROOT / "examples" / config), "--headless", *sets],
        capture_output=True,
        text=True,
        timeout=380,
    )
    return done, list_runs()[0]


def losses(directory: RunDirectory) -> list[float]:
    return [row["loss"] for _, row in recorded_ranks(directory) if row["loss"] is not None]


def test_the_demo_finishes_and_its_loss_falls():
    done, directory = run("demo.toml", "train.max_steps=120", "checkpoint.every_steps=50")
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    curve = losses(directory)
    assert len(curve) == 120
    assert sum(curve[-10:]) / 10 < sum(curve[:10]) / 10 - 1.0
    assert "simulated" in done.stdout
    assert list(recorded_hosts(directory))
    names = {path.name for path in directory.path.iterdir()}
    assert {"run.json", "state.json", "journal.jsonl", "output.log", "samples", "checkpoints"} <= names
    manifests = list(directory.checkpoints.glob("*/manifest.json"))
    assert {json.loads(path.read_text())["kind"] for path in manifests} == {"light", "full"}
    assert "step 120" in directory.output.read_text()
    assert directory.supervisor_log.read_text() == ""


def test_an_oom_is_rehearsed_and_survived():
    done, directory = run("rehearse-oom.toml")
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    assert "micro-batch 16 -> 8" in done.stdout
    assert "micro-batch 8 -> 4" in done.stdout
    state = directory.state()
    assert state.num_ooms >= 2
    assert state.micro_batch == 4
    assert state.global_batch == 16


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        ("model.pretrained=nobody/no-such-model", ExitCode.USAGE, "nobody/no-such-model"),
        ("device.capacity=1MiB", ExitCode.OUT_OF_MEMORY, "the model does not fit the device of 1.00 MiB"),
    ],
)
def test_what_cannot_train_says_why_in_one_line(override, code, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done, directory = run("demo.toml", override)
    assert done.returncode == code, done.stdout + done.stderr
    *_, verdict, advice = done.stdout.splitlines()
    assert message in verdict
    assert f"memdash logs {directory.run_id}" in advice
    assert "Traceback" not in done.stdout
    assert "Traceback" not in directory.output.read_text()

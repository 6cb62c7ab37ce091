"""`memdash sweep`: real runs one after another, what cannot be run left out with the reason, a comparison, and a way out."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from memdash.errors import ExitCode
from memdash.store.run_directory import list_runs
from tests.conftest import wait_until
from tests.integration.test_signals import REAL_S, write_job

pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]
TOY = """
[run]
name = "{name}"
[task]
name = "toy_task:toy"
options = {{ {options} }}
[train]
global_batch = 4
max_steps = 8
threads = 1
[device]
kind = "simulated"
capacity = "{capacity}"
"""


def sweep(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "memdash", "sweep", *more]
    return subprocess.run(argv, capture_output=True, text=True, timeout=380, cwd=folder, check=False)


def write(folder: Path, name: str, options: str = "", capacity: str = "1MiB") -> str:
    (folder / f"{name}.toml").write_text(TOY.format(name=name, options=options, capacity=capacity))
    return f"{name}.toml"


def test_it_goes_on_past_what_does_not_fit_is_wrong_or_fails(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests/runner/toy_task.py", tmp_path)
    (tmp_path / "typo.toml").write_text("[train]\nmicro_bach = 2\n")
    configs = [
        "typo.toml",
        write(tmp_path, "large", capacity="4KiB"),
        write(tmp_path, "breaks", "fail_at_step = 3"),
        write(tmp_path, "works"),
    ]
    done = sweep(tmp_path, *configs, "--json", "--csv", "table.csv", "--set", "train.learning_rate=0.01")
    assert done.returncode == ExitCode.FAILED, done.stderr
    rows = {row["config"]: row for row in json.loads(done.stdout)["configs"]}
    assert list(rows) == ["typo", "large", "breaks", "works"]
    outcomes = {name: (row["outcome"], row["exit_code"]) for name, row in rows.items()}
    assert outcomes == {
        "typo": ("mistake", 2),
        "large": ("skipped", 0),
        "breaks": ("failed", 11),
        "works": ("finished", 0),
    }
    assert "typo.toml:2: unknown key `train.micro_bach` (did you mean `micro_batch`?)" in rows["typo"]["why"]
    assert rows["large"]["why"].startswith("WILL OOM at step 1 (example ")
    assert "of 4.00 KiB (device.capacity, simulated); no micro-batch fits as it is" in rows["large"]["why"]
    assert "ZeroDivisionError: a bug in the user's task" in rows["breaks"]["why"]
    works = rows["works"]
    assert (works["steps"], works["total_steps"], works["peak_of"]) == (8, 8, "simulated")
    assert works["parameters"] == works["trainable"] == 135
    assert works["peak_bytes"] == pytest.approx(works["planned_bytes"], rel=0.2)
    assert works["step_time_s"] > 0
    assert set(works["metrics"]) == {"loss"}
    assert [run.record().name for run in list_runs()] == ["works", "breaks"]  # only these were started
    said = done.stderr.splitlines()
    assert any(line.endswith("works: [step 8] state: finished") for line in said)
    assert any(" breaks: [step " in line for line in said)
    with open(tmp_path / "table.csv", newline="") as file:
        written = {row["config"]: row for row in csv.DictReader(file)}
    assert float(written["works"]["loss"]) == pytest.approx(works["metrics"]["loss"])
    assert int(written["large"]["planned_bytes"]) == rows["large"]["planned_bytes"] > 4096


@pytest.mark.parametrize(
    ("number", "code", "outcome", "words"),
    [
        (signal.SIGINT, ExitCode.INTERRUPTED, "goes on", "Back to it: memdash attach signalled-"),
        (signal.SIGTERM, ExitCode.STOPPED, "stopped", "stopping the run after a full checkpoint"),
    ],
)
def test_a_signal_ends_it_and_says_what_becomes_of_the_run(
    tmp_path: Path, number: signal.Signals, code: ExitCode, outcome: str, words: str
) -> None:
    write_job(tmp_path)
    shutil.copy(tmp_path / "job.toml", tmp_path / "next.toml")
    with open(tmp_path / "printed", "wb") as printed:
        argv = [sys.executable, "-m", "memdash", "sweep", "job.toml", "next.toml", "--no-plan"]
        verb = subprocess.Popen(argv, stdout=printed, stderr=subprocess.STDOUT, cwd=tmp_path)
    wait_until(lambda: list_runs() and (state := list_runs()[0].state()) and state.step > 2, "steps", REAL_S)
    (run,) = list_runs()
    verb.send_signal(number)
    try:
        ended(verb, code, tmp_path, outcome, words)
        assert list_runs() == [run]
    finally:
        stop = [sys.executable, "-m", "memdash", "stop", run.run_id, "--save", "none"]
        subprocess.run(stop, check=number == signal.SIGINT, timeout=REAL_S, capture_output=True)


def ended(verb: subprocess.Popen[bytes], code: ExitCode, folder: Path, outcome: str, words: str) -> None:
    """It says what became of the run, and of the config after it."""
    assert verb.wait(REAL_S) == code
    said = (folder / "printed").read_text()
    assert words in said
    table = {line.split()[0]: line for line in said.split("\n\n")[1].splitlines()}
    assert table["job"].endswith(outcome)
    assert table["next"].endswith("not run")

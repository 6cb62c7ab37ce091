"""The example with one long text: named long before it comes; passed without an OOM in protect mode, and true in advise mode."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
STEP, EXAMPLE = 76, 1475
NAMED = rf"\[step (\d+)\] forecast: (?:warning|critical): step {STEP} in .* will not fit: example 1,475 of length 2,200"
MAY = NAMED.replace("(?:warning|critical)", r"\w+").replace("will", "(?:may|will)")
"""To cut one step smaller costs next to nothing, so the guard does not wait until it is sure."""


def headless(tmp_path: Path, *overrides: str) -> str:
    argv = [sys.executable, "-m", "memdash", "run", str(EXAMPLES / "one-long-example.toml"), "--headless"]
    for override in (f"run.dir={tmp_path}", "train.max_steps=90", "checkpoint.at_end=none", *overrides):
        argv += ["--set", override]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_protected_it_is_passed_without_an_oom(tmp_path: Path) -> None:
    said = headless(tmp_path, "guard.mode=protect")
    assert int(re.search(MAY, said)[1]) < STEP - 20
    assert re.search(rf"guard: the guard does: step {STEP} at micro-batch [124]", said)
    assert re.search(rf"\[step {STEP - 1}\] split: micro-batch 8 -> [124]: step {STEP} was forecast not to fit", said)
    assert re.search(rf"\[step {STEP}\] split: micro-batch [124] -> 8", said)
    assert " oom: " not in said


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_advised_and_left_alone_it_does_not_fit_as_was_said(tmp_path: Path) -> None:
    said = headless(tmp_path)
    assert int(re.search(NAMED, said)[1]) < STEP - 20
    assert re.search(rf"\[step {STEP - 1}\] oom: out of memory in step {STEP}, forward/backward", said)
    assert "guard:" not in said


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_dry_run_only_says_what_it_would_do(tmp_path: Path) -> None:
    said = headless(tmp_path, "guard.mode=protect", "guard.dry_run=true")
    assert f"the guard would have done: step {STEP} at micro-batch" in said
    assert f"[step {STEP - 1}] oom:" in said

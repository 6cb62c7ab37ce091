"""Formatting, lint and types are tests like any other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CHECKS = {
    "format": ["ruff", "format", "--check", "."],
    "lint": ["ruff", "check", "."],
    "types": ["mypy"],
}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("argv", CHECKS.values(), ids=CHECKS.keys())
def test_style(argv):
    done = subprocess.run([sys.executable, "-m", *argv], cwd=ROOT, capture_output=True, text=True, timeout=390)
    assert done.returncode == 0, done.stdout + done.stderr

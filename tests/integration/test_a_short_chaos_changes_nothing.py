"""tests/chaos.py for less than a minute: real trainings under random faults end like one that nobody disturbed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(720)]

ROOT = Path(__file__).parents[2]
SEED = 14  # it begins with a SIGTERM, a kill -9 of each process, and a full disk
TIMEOUT_S = 700.0  # its own watchdog ends it before


def test_a_short_chaos() -> None:
    argv = [sys.executable, str(ROOT / "tests" / "chaos.py"), "--minutes", "0.75", "--seed", str(SEED), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["passed"]
    assert sum(row["injected"] for row in result["faults"]) >= 4
    assert all(check["holds"] for check in result["checks"])

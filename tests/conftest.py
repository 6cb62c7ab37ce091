"""What every test gets: runs and sockets of its own, and bounded waiting."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.pop("NO_COLOR", None)  # it would change every picture of the dashboard

pytest_plugins = ["tests.supervised", "tests.cgroups", "tests.nvml_standin"]

WAIT_S = 20.0 * float(os.environ.get("MEMDASH_TEST_PATIENCE", "1"))  # a kernel in a process is slower: on_cgroup_v2.py


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Runs, sockets and caches that belong to this test alone; sockets in a short path (the limit is 107 bytes)."""
    short = Path(tempfile.mkdtemp(prefix="md-", dir="/tmp"))
    monkeypatch.setenv("MEMDASH_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("MEMDASH_RUNTIME_DIR", str(short))
    monkeypatch.setenv("MEMDASH_NO_PLAN", "1")  # four seconds of CPU before each start
    for name in (
        "MEMDASH_SOCKET",
        "MEMDASH_RUN_ID",
        "MEMDASH_ATTEMPT",
        "MEMDASH_RUN_DIR",
        "RANK",
        "WORLD_SIZE",
        "LOCAL_RANK",
    ):
        monkeypatch.delenv(name, raising=False)
    yield tmp_path
    shutil.rmtree(short, ignore_errors=True)


def wait_until(predicate: Callable[[], object], what: str, timeout_s: float = WAIT_S) -> None:
    """Return as soon as `predicate()` is true; fail, naming `what`, when it is not in time."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(0.01)

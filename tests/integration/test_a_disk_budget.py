"""A run with a disk budget, through the product: never over it, never without a good checkpoint, and it says what it did."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from memdash.checkpoints import complete, verify
from memdash.errors import ExitCode
from memdash.store.journal import read_journal
from memdash.store.run_directory import list_runs

HERE = Path(__file__).parent
TIMEOUT_S = 60.0
BUDGET = 2_500_000  # room for five of its full checkpoints of 428 KiB, and for the record
CONFIG = f"""
[run]
name = "small"
[task]
name = "toy_task:toy"
options = {{ width = 128 }}
[train]
global_batch = 4
max_steps = 150
threads = 1
[device]
kind = "cpu"
[checkpoint]
every_steps = 5
keep_last = 8
at_end = "none"
[budget]
disk = "{BUDGET}"
"""


def used_bytes(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:  # it went meanwhile
                continue
    return total


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_run_stays_in_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    shutil.copy(HERE.parent / "runner" / "toy_task.py", tmp_path)
    (tmp_path / "small.toml").write_text(CONFIG)
    argv = [sys.executable, "-m", "memdash", "run", str(tmp_path / "small.toml"), "--headless"]
    most, with_one = 0, False
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as run:
        while run.poll() is None:
            for directory in list_runs():
                most = max(most, used_bytes(directory.path))
                has_one = any(found.kind == "full" for found in complete(directory.checkpoints))
                assert has_one or not with_one  # from the first one on there always is one
                with_one = with_one or has_one
    assert run.returncode == ExitCode.OK
    directory = list_runs()[0]
    assert BUDGET // 2 < most <= BUDGET
    saved = complete(directory.checkpoints)
    assert verify(saved[0].path).step == 150
    assert 2 <= len(saved) < 8
    texts = [entry.text for entry in read_journal(directory.journal)]
    assert any("every 5 steps, keep_last 8: at most 3.7" in text and "removed sooner" in text for text in texts)
    assert sum("(schedule) made way, 428 KiB" in text for text in texts) >= 20
    assert not [text for text in texts if "not saved" in text]

"""A disk that is full in the middle of a save: nothing older is touched, training goes on, the journal says what is needed."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memdash.checkpoints import complete, verify
from memdash.errors import ExitCode, StoreError
from memdash.store.journal import read_journal
from memdash.store.run_directory import list_runs
from runner.checkpoint import CheckpointStore, Staging

HERE = Path(__file__).parent
TIMEOUT_S = 60.0
LIMIT_BYTES = 60_000  # a light checkpoint's weights of 37 KB are below it, a full one's state of 80 KB is not
TASK = f"""
import resource
from toy_task import toy as real

def toy(options, config):
    resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT_BYTES}, resource.RLIM_INFINITY))
    return real(options, config)
"""
CONFIG = """
[run]
name = "full"
[task]
name = "small_disk:toy"
options = { width = 64 }
[train]
global_batch = 4
max_steps = 40
eval_every = 10
threads = 1
[device]
kind = "cpu"
[checkpoint]
every_steps = 1
keep_best = "loss"
at_end = "none"
"""


def fill(staging: Staging, size: int = 1000) -> None:
    staging.write("state.safetensors", lambda write: [write(b"\1" * size) for _ in range(5)])


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_run_outlives_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    shutil.copy(HERE.parent / "runner" / "toy_task.py", tmp_path)
    (tmp_path / "small_disk.py").write_text(TASK)
    (tmp_path / "full.toml").write_text(CONFIG)
    argv = [sys.executable, "-m", "memdash", "run", str(tmp_path / "full.toml"), "--headless"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == ExitCode.OK, done.stdout + done.stderr
    directory = list_runs()[0]
    state = directory.state()
    assert state is not None
    assert (state.status, state.step) == ("finished", 40)
    failures = [entry for entry in read_journal(directory.journal) if "checkpoint not saved" in entry.text]
    assert len(failures) == 1  # and not one a step
    assert failures[0].level == "error"
    assert "training goes on: no room for a checkpoint" in failures[0].text
    assert "File too large; it needs 1" in failures[0].text
    assert "are free" in failures[0].text
    assert any(
        "light checkpoint of" in entry.text and "(best)" in entry.text for entry in read_journal(directory.journal)
    )
    saved = complete(directory.checkpoints)
    assert [(found.kind, found.reason) for found in saved] == [("light", "best")]
    assert {path.name for path in directory.checkpoints.iterdir()} == {"latest", saved[0].path.name}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if not mount or subprocess.run([mount, "-t", "tmpfs", "-o", "size=256k", "none", folder]).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_small_file_system_really_full(small_disk: Path) -> None:
    store = CheckpointStore(small_disk, 2)
    older = store.save("full", 1, "schedule", 5000, fill)
    with pytest.raises(StoreError, match=r"No space left on device; it needs 105 KiB, \d+ KiB are free"):
        store.save("full", 2, "schedule", 102_400, lambda staging: fill(staging, 100_000))
    with pytest.raises(StoreError, match=r"it needs 1.00 MiB, \d+ KiB are free"):
        store.save("full", 2, "schedule", 1_000_000, fill)  # known before anything is written
    assert verify(older.path) == older
    assert {path.name for path in small_disk.iterdir()} == {"latest", older.path.name}
    assert store.save("full", 3, "schedule", 5000, fill).step == 3


def test_a_disk_with_room_for_the_checkpoint_but_not_for_the_pointer(small_disk: Path) -> None:
    store = CheckpointStore(small_disk, 2)
    store.save("full", 1, "schedule", 5000, fill)

    def fill_up(staging: Staging) -> None:
        fill(staging)
        manifest_bytes = 4096
        free = shutil.disk_usage(small_disk).free - manifest_bytes
        (staging.path / "tokenizer.json").write_bytes(b"\1" * (free // 4096 * 4096))

    newest = store.save("full", 2, "schedule", 5000, fill_up)
    assert shutil.disk_usage(small_disk).free == 0
    assert complete(small_disk)[0] == newest
    assert (small_disk / "latest").read_text() == "step-00000001-full\n"
    assert store.remove_old(newest) == []

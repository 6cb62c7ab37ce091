"""Checkpoint directories: complete or not there, whatever kills the writer or damages a file."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from memdash.checkpoints import choose, complete, verify
from memdash.errors import StoreError
from runner import checkpoint
from runner.checkpoint import CheckpointStore, Staging

FULL = ("full",)
KILLED_AT = ("fsync", "rename", "replace", "write")


def fill(staging: Staging) -> None:
    staging.write("model.safetensors", lambda write: [write(bytes([n]) * 1000) for n in range(5)])
    staging.write_json("training.json", {"progress": 1})
    (staging.path / "notes.txt").write_text("from the task")


def store(folder: Path, keep_last: int = 2) -> CheckpointStore:
    return CheckpointStore(folder, keep_last)


def test_a_checkpoint_names_all_its_files(tmp_path: Path) -> None:
    saved = store(tmp_path).save("full", 120, "command", 100, fill)
    manifest = json.loads((saved.path / "manifest.json").read_bytes())
    assert saved.path.name == "step-00000120-full"
    assert set(manifest["files"]) == {"model.safetensors", "training.json", "notes.txt"}
    assert manifest["files"]["model.safetensors"]["size_bytes"] == 5000
    assert verify(saved.path) == saved
    assert (tmp_path / "latest").read_text() == "step-00000120-full\n"


def test_two_of_one_step_do_not_collide(tmp_path: Path) -> None:
    paths = [store(tmp_path).save("full", 1, "command", 100, fill).path.name for _ in range(3)]
    assert paths == ["step-00000001-full", "step-00000001-full-2", "step-00000001-full-3"]
    assert choose(tmp_path, "latest", FULL)[0].path.name == paths[-1]


def test_only_scheduled_full_ones_are_removed(tmp_path: Path) -> None:
    here = store(tmp_path, keep_last=2)
    here.save("full", 1, "command", 100, fill)
    for step in (2, 3, 4, 5):
        here.save("full", step, "schedule", 100, fill)
        here.save("light", step, "schedule", 100, fill)
    (tmp_path / "step-00000005-full" / "training.json").unlink()
    assert here.remove_old(here.save("full", 6, "schedule", 100, fill)) == []
    full = [found.step for found in complete(tmp_path) if found.kind == "full"]
    assert full == [6, 4, 1]  # the damaged one pushed none of the good ones out
    assert len([found for found in complete(tmp_path) if found.kind == "light"]) == 4


def test_the_one_just_saved_stays_whatever_the_others_are_named(tmp_path: Path) -> None:
    """The training process was started by hand at an older checkpoint, so that no attempt tells new from old."""
    here = store(tmp_path, keep_last=1)
    for step in (8, 9, 2):
        here.remove_old(here.save("full", step, "schedule", 100, fill))
    assert [found.step for found in complete(tmp_path)] == [2]


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    here = store(tmp_path)
    older = here.save("full", 1, "schedule", 100, fill)

    def fail(staging: Staging) -> None:
        fill(staging)
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match="no room for a checkpoint"):
        here.save("full", 2, "schedule", 100, fail)
    with pytest.raises(StoreError, match="no room for a checkpoint"):
        here.save("full", 2, "schedule", 1 << 60, fill)
    assert choose(tmp_path, "latest", FULL) == (older, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001-full"]


def test_a_limit_on_file_size_is_a_full_disk(tmp_path: Path) -> None:
    older = store(tmp_path).save("full", 1, "schedule", 100, fill)
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        try:
            store(tmp_path).save("full", 2, "schedule", 100, fill)
        except StoreError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert choose(tmp_path, "latest", FULL) == (older, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000001-full"]


def test_what_dead_writers_left_is_swept(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead = tmp_path / f".step-00000001-full.tmp-{int(gone.stdout)}-0a1b2c3d"
    alive = tmp_path / f".step-00000001-full.tmp-{os.getpid()}-0a1b2c3d"
    for folder in (dead, alive):
        folder.mkdir()
    store(tmp_path)
    assert not dead.exists()
    assert alive.exists()


def die_at(call: str, nth: int) -> None:
    """Let this process kill itself at the nth such call of the checkpoint code."""
    left = nth

    def counted(real: Callable[..., object]) -> Callable[..., object]:
        def wrapper(*args: object, **kwargs: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return wrapper

    if call == "write":
        real = Staging.write
        Staging.write = counted(real)  # type: ignore[method-assign, assignment]
    else:
        setattr(checkpoint.os, call, counted(getattr(os, call)))


def save_in_a_child(folder: Path, step: int, call: str, nth: int) -> bool:
    """Save in a fork that dies at a given point; whether it died."""
    pid = os.fork()
    if pid == 0:
        die_at(call, nth)
        store(folder).save("full", step, "schedule", 100, fill)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("call", KILLED_AT)
def test_killed_at_any_point_latest_is_complete(tmp_path: Path, call: str) -> None:
    """kill -9 before every fsync, rename, replace and file of a save: the checkpoint before it is always there."""
    store(tmp_path).save("full", 1, "schedule", 100, fill)
    nth = 0
    died = True
    while died:
        nth += 1
        newest = choose(tmp_path, "latest", FULL)[0].step
        died = save_in_a_child(tmp_path, newest + 1, call, nth)
        found, notes = choose(tmp_path, "latest", FULL)
        assert not notes
        assert found.step in (newest, newest + 1)
        pointed = (tmp_path / "latest").read_text().strip()
        assert verify(tmp_path / pointed)
    assert nth > {"fsync": 7, "rename": 1, "replace": 1, "write": 3}[call]
    store(tmp_path)
    assert not list(tmp_path.glob(".step-*"))

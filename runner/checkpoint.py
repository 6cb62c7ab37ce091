"""Writes checkpoint directories that are complete or not there: staged, fsynced, manifest last, one rename. No pickle.

RUN_DIR/checkpoints/step-00000120-full/manifest.json names every other file with its size and SHA-256, and carries a hash
of itself. Readers are in memdash/checkpoints.py. Which tensors are inside is training_state.py's matter.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from memdash.checkpoints import MANIFEST, Checkpoint, complete, read_manifest, seal, sha256
from memdash.errors import StoreError
from memdash.units import format_bytes
from memdash.wire import Asked, CheckpointKind

Reason = Asked | Literal["schedule", "best", "end", "out of memory"]
"""Who wanted it; only those that the schedule wanted, and a best one that was beaten, are ever removed."""

LATEST = "latest"
LEFT_BEHIND = re.compile(r"\.(?:step-.*\.tmp|latest)-(\d+)(?:-[0-9a-f]+)?")
DISK_MARGIN = 1.05  # headers, JSON, blocks of the file system
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Staging:
    """A checkpoint in the making: files written through it are hashed on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, dict[str, Any]] = {}

    def write(self, name: str, fill: Callable[[Callable[[Any], Any]], None]) -> None:
        """Create one file, or replace what a task left under its name; `fill(write)` writes its bytes."""
        digest, size = hashlib.sha256(), 0
        hashed: Future[None] | None = None
        # SHA-256 costs more than the copy into the page cache; in a thread of its own the two overlap.
        with ThreadPoolExecutor(1, "memdash-sha256") as hashing, open(self.path / name, "wb") as file:

            def write(data: Any) -> None:
                nonlocal size, hashed
                if hashed is not None:
                    hashed.result()  # one piece at a time is kept alive
                hashed = hashing.submit(digest.update, data)
                size += file.write(data)

            fill(write)
            file.flush()
            os.fsync(file.fileno())
        self._files[name] = {"size_bytes": size, "sha256": digest.hexdigest()}

    def write_json(self, name: str, value: Any) -> None:
        """Create one JSON file."""
        text = json.dumps(value, indent=1).encode()
        self.write(name, lambda write: write(text))

    def seal(self, manifest: dict[str, Any]) -> None:
        """Take in what others wrote into the directory, then write the manifest."""
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path).as_posix()
            if path.is_dir():
                fsync(path)
            elif name not in self._files and name != MANIFEST:  # which is about to be written
                fsync(path)
                self._files[name] = {"size_bytes": path.stat().st_size, "sha256": sha256(path)}
        size_bytes: int = sum(file["size_bytes"] for file in self._files.values())
        text = seal(manifest | {"size_bytes": size_bytes, "files": self._files})
        self.write(MANIFEST, lambda write: write(text))
        fsync(self.path)


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep_last: int, attempt: int = 0) -> None:
        self.folder = folder
        self._keep_last = keep_last
        self._attempt = attempt
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)

    def save(
        self, kind: CheckpointKind, step: int, reason: Reason, need_bytes: int, fill: Callable[[Staging], None]
    ) -> Checkpoint:
        """Write one; on any error nothing of it stays and the older ones are untouched. Raises StoreError, OSError."""
        self._check_disk(need_bytes)
        name = self._free_name(kind, step)
        staging = Staging(self.folder / f".{name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
        staging.path.mkdir()
        try:
            fill(staging)
            staging.seal({"kind": kind, "step": step, "attempt": self._attempt, "reason": reason})
            os.rename(staging.path, self.folder / name)
        except OSError as error:
            if error.errno in DISK_FULL:
                shutil.rmtree(staging.path, ignore_errors=True)  # first: its part of the disk is free again
                raise self._disk_full(need_bytes, f": {os.strerror(error.errno)}") from None
            raise
        finally:
            shutil.rmtree(staging.path, ignore_errors=True)
        fsync(self.folder)
        self._point_latest(name)
        return read_manifest(self.folder / name)

    def remove_old(self, newest: Checkpoint) -> list[str]:
        """Keep the newest full ones that the schedule wanted; a note for each that could not be removed.

        `newest` is a full one that was just committed: it is good, and stays whatever the others are named. Of the others
        only complete ones are counted, so that a damaged one pushes out no good one.
        """
        wanted = [c for c in complete(self.folder) if c.kind == "full" and c.reason == "schedule"]
        wanted.sort(key=lambda checkpoint: checkpoint.path != newest.path)
        return self.remove(wanted[self._keep_last :])

    def remove(self, checkpoints: Sequence[Checkpoint]) -> list[str]:
        """A note for each that could not be removed."""
        notes = []
        for old in checkpoints:
            doomed = self.folder / f".{old.path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
            try:
                os.rename(old.path, doomed)  # never half a checkpoint under its own name
                shutil.rmtree(doomed)
            except OSError as error:
                notes.append(f"cannot remove the old checkpoint {old.path.name}: {error}")
        return notes

    def free_bytes(self) -> int:
        """Of the file system that they lie on."""
        return shutil.disk_usage(self.folder).free

    def _free_name(self, kind: str, step: int) -> str:
        base = f"step-{step:08d}-{kind}"
        number = 1
        while (self.folder / (name := base if number == 1 else f"{base}-{number}")).exists():
            number += 1
        return name

    def _point_latest(self, name: str) -> None:
        """For people and scripts; we ourselves look for the newest. Without room for it the checkpoint is still whole."""
        temporary = self.folder / f".{LATEST}-{os.getpid()}"
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(name + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.folder / LATEST)
            fsync(self.folder)
        except OSError:
            temporary.unlink(missing_ok=True)

    def _check_disk(self, need_bytes: int) -> None:
        if self.free_bytes() < need_bytes * DISK_MARGIN:
            raise self._disk_full(need_bytes)

    def _disk_full(self, need_bytes: int, why: str = "") -> StoreError:
        free = format_bytes(self.free_bytes())
        need = format_bytes(round(need_bytes * DISK_MARGIN))
        return StoreError(f"no room for a checkpoint in {self.folder}{why}; it needs {need}, {free} are free")


def sweep(folder: Path) -> None:
    """Remove what processes that are gone left half-written."""
    for path in folder.iterdir():
        found = LEFT_BEHIND.fullmatch(path.name)
        if found and not _is_alive(int(found[1])):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def fsync(path: Path) -> None:
    """Make a file or a directory's names durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

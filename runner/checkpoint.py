"""Checkpoint directories that are complete or not there: staged, fsynced, manifest last, one rename. No pickle.

RUN_DIR/checkpoints/step-00000120-full/manifest.json names every other file with its size and SHA-256. A directory
without a manifest that fits is not a checkpoint: readers skip it for the one before. Which tensors are inside is
training_state.py's matter.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from memdash.errors import CheckpointIncomplete, StoreError
from memdash.units import format_bytes
from memdash.wire import CheckpointKind

Reason = Literal["command", "schedule", "end", "out of memory"]
"""Who wanted it; only those that the schedule wanted are ever removed."""

SCHEMA = 1
MANIFEST = "manifest.json"
LATEST = "latest"
NAME = re.compile(r"step-(\d{8,})-(light|full)(?:-(\d+))?")
STAGING = re.compile(r"\.step-.*\.tmp-(\d+)-[0-9a-f]+")
DISK_MARGIN = 1.05  # headers, JSON, blocks of the file system
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    path: Path
    step: int
    kind: CheckpointKind
    reason: str
    size_bytes: int


class Staging:
    """A checkpoint in the making: files written through it are hashed on the way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, dict[str, Any]] = {}

    def write(self, name: str, fill: Callable[[Callable[[Any], Any]], None]) -> None:
        """Create one file; `fill(write)` writes its bytes."""
        digest, size = hashlib.sha256(), 0
        with open(self.path / name, "xb") as file:

            def write(data: Any) -> None:
                nonlocal size
                digest.update(data)
                size += file.write(data)

            fill(write)
            file.flush()
            os.fsync(file.fileno())
        self._files[name] = {"size_bytes": size, "sha256": digest.hexdigest()}

    def write_json(self, name: str, value: Any) -> None:
        """Create one JSON file."""
        text = json.dumps(value, indent=1).encode()
        self.write(name, lambda write: write(text))

    def seal(self, manifest: dict[str, Any]) -> int:
        """Take in what others wrote into the directory, then write the manifest; the size of it all."""
        for path in sorted(self.path.rglob("*")):
            name = path.relative_to(self.path).as_posix()
            if path.is_dir():
                fsync(path)
            elif name not in self._files:
                fsync(path)
                self._files[name] = {"size_bytes": path.stat().st_size, "sha256": sha256(path)}
        size_bytes: int = sum(file["size_bytes"] for file in self._files.values())
        self.write_json(MANIFEST, manifest | {"schema": SCHEMA, "size_bytes": size_bytes, "files": dict(self._files)})
        fsync(self.path)
        return size_bytes


class CheckpointStore:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep_last: int) -> None:
        self.folder = folder
        self._keep_last = keep_last
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
            size_bytes = staging.seal({"kind": kind, "step": step, "reason": reason})
            os.rename(staging.path, self.folder / name)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise self._disk_full(need_bytes) from None
            raise
        finally:
            shutil.rmtree(staging.path, ignore_errors=True)
        fsync(self.folder)
        self._point_latest(name)
        return Checkpoint(self.folder / name, step, kind, reason, size_bytes)

    def remove_old(self) -> list[str]:
        """Keep the newest full ones that the schedule wanted; a note for each that could not be removed.

        Only after a commit, and only complete ones are counted: damaged ones never push out a good one.
        """
        wanted = [c for c in complete(self.folder) if c.kind == "full" and c.reason == "schedule"]
        notes = []
        for old in wanted[self._keep_last :]:
            doomed = self.folder / f".{old.path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}"
            try:
                os.rename(old.path, doomed)  # never half a checkpoint under its own name
                shutil.rmtree(doomed)
            except OSError as error:
                notes.append(f"cannot remove the old checkpoint {old.path.name}: {error}")
        return notes

    def _free_name(self, kind: str, step: int) -> str:
        base = f"step-{step:08d}-{kind}"
        number = 1
        while (self.folder / (name := base if number == 1 else f"{base}-{number}")).exists():
            number += 1
        return name

    def _point_latest(self, name: str) -> None:
        temporary = self.folder / f".{LATEST}.{os.getpid()}"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(name + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.folder / LATEST)
        fsync(self.folder)

    def _check_disk(self, need_bytes: int) -> None:
        if shutil.disk_usage(self.folder).free < need_bytes * DISK_MARGIN:
            raise self._disk_full(need_bytes)

    def _disk_full(self, need_bytes: int) -> StoreError:
        free = format_bytes(shutil.disk_usage(self.folder).free)
        need = format_bytes(round(need_bytes * DISK_MARGIN))
        return StoreError(f"no room for a checkpoint in {self.folder}: it needs {need}, {free} are free")


def complete(folder: Path) -> list[Checkpoint]:
    """Checkpoints whose files have the right sizes, newest first; hashes are checked when one is loaded."""
    found = []
    for path in sorted(_named(folder), key=_age, reverse=True):
        with contextlib.suppress(CheckpointIncomplete):
            found.append(read_manifest(path)[0])
    return found


def choose(folder: Path, asked: str) -> tuple[Checkpoint, list[str]]:
    """The checkpoint to resume from, and a note for each damaged one that was passed over.

    `latest` is the newest full one, else the newest light one. A path is that checkpoint, else the one before it.
    Raises CheckpointIncomplete when none is left.
    """
    if asked != "latest":
        path = Path(asked).expanduser().absolute()
        if not path.is_dir():
            raise CheckpointIncomplete(f"{path}: there is no such checkpoint")
        folder, ordered = path.parent, _from(path)
    else:
        ordered = sorted(_named(folder), key=lambda path: (_kind(path) == "full", _age(path)), reverse=True)
    notes: list[str] = []
    for path in ordered:
        try:
            return verify(path), notes
        except CheckpointIncomplete as error:
            notes.append(f"{error}; passed over for the one before")
    raise CheckpointIncomplete(f"no complete checkpoint in {folder}", hint="; ".join(notes))


def verify(path: Path) -> Checkpoint:
    """A checkpoint whose every file has the size and hash of the manifest. Raises CheckpointIncomplete."""
    checkpoint, files = read_manifest(path)
    for name, expected in files.items():
        if sha256(path / name) != expected["sha256"]:
            raise CheckpointIncomplete(f"{path.name}: {name} is damaged")
    return checkpoint


def read_manifest(path: Path) -> tuple[Checkpoint, dict[str, dict[str, Any]]]:
    """The manifest of a checkpoint, its files checked for presence and size. Raises CheckpointIncomplete."""
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        files = dict(manifest["files"])
        kind, reason, size_bytes = manifest["kind"], manifest["reason"], manifest["size_bytes"]
        checkpoint = Checkpoint(path, int(manifest["step"]), kind, reason, size_bytes)
        for name, expected in files.items():
            if name.startswith("/") or ".." in Path(name).parts:
                raise CheckpointIncomplete(f"{path.name}: its manifest points outside")
            if (path / name).stat().st_size != expected["size_bytes"]:
                raise CheckpointIncomplete(f"{path.name}: {name} is cut short")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointIncomplete(f"{path.name}: incomplete ({type(error).__name__}: {error})") from None
    return checkpoint, files


def sweep(folder: Path) -> None:
    """Remove what processes that are gone left half-written."""
    for path in folder.iterdir():
        staging = STAGING.fullmatch(path.name)
        if staging and not _is_alive(int(staging[1])):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _named(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if NAME.fullmatch(path.name)) if folder.is_dir() else iter(())


def _kind(path: Path) -> str:
    match = NAME.fullmatch(path.name)
    return match[2] if match else ""


def _age(path: Path) -> tuple[int, int]:
    match = NAME.fullmatch(path.name)
    return (int(match[1]), int(match[3] or 1)) if match else (-1, 0)


def _from(path: Path) -> list[Path]:
    """This checkpoint, then the older ones beside it, newest first."""
    older = [other for other in _named(path.parent) if _age(other) < _age(path)]
    return [path, *sorted(older, key=lambda other: (_kind(other) == "full", _age(other)), reverse=True)]


def sha256(path: Path) -> str:
    """Of a file's bytes. Raises CheckpointIncomplete when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointIncomplete(f"{path.parent.name}: {path.name} cannot be read: {error}") from None


def fsync(path: Path) -> None:
    """Make a file or a directory's names durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

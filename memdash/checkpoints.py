"""Checkpoints as readers see them: a directory is one when its manifest fits its files, and is passed over when not.

RUN_DIR/checkpoints/step-00000120-full/manifest.json names every other file with its size and SHA-256, and carries a hash
of its own bytes. The training process writes them (runner/checkpoint.py); verbs list, verify and export them. No tensor
is looked at here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memdash.errors import CheckpointIncomplete, UsageError
from memdash.wire import CheckpointKind

SCHEMA = 1
MANIFEST = "manifest.json"
NAME = re.compile(r"step-(\d{8,})-(light|full)(?:-(\d+))?")
SEAL = "manifest_sha256"
NO_HASH = "0" * 64
OURS = (MANIFEST, "training.json", "state.safetensors")
"""Files that only a resume needs; the rest is what `from_pretrained` reads."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files are all there, in the right sizes."""

    path: Path
    step: int
    kind: CheckpointKind
    attempt: int
    """The launch of the run that saved it."""
    reason: str
    """Who wanted it: `command`, `signal`, `guard`, `stop`, `schedule`, `best`, `end`, `out of memory`."""
    size_bytes: int
    files: dict[str, dict[str, Any]]
    """Name -> `size_bytes` and `sha256`."""


def complete(folder: Path) -> list[Checkpoint]:
    """Checkpoints whose files have the right sizes, newest first; hashes are checked by `verify`."""
    found = []
    for path in _newest_first(folder):
        with contextlib.suppress(CheckpointIncomplete):
            found.append(read_manifest(path))
    return found


def damaged(folder: Path) -> list[tuple[Path, str]]:
    """Directories named like checkpoints that are none, and why, newest first."""
    found = []
    for path in _newest_first(folder):
        try:
            read_manifest(path)
        except CheckpointIncomplete as error:
            found.append((path, str(error)))
    return found


def choose(folder: Path, asked: str, kinds: Collection[str]) -> tuple[Checkpoint, list[str]]:
    """The checkpoint to go on from, verified, and a note for each damaged one that was passed over.

    `latest` is the newest of the wanted kinds. A name or a path is that checkpoint, else the newest one of an earlier step.
    Raises UsageError when there is no such checkpoint, CheckpointIncomplete when no good one is left.
    """
    wanted = None if asked == "latest" else _find(folder, asked)
    if wanted is not None:
        folder = wanted.parent
        if _kind(wanted) not in kinds:
            hint = "`memdash run --warm-start` goes on from weights alone"
            raise UsageError(f"{wanted.name} is a light checkpoint: it holds weights only", hint=hint)
    candidates = [path for path in _newest_first(folder) if _kind(path) in kinds]
    if wanted is not None:
        candidates = [wanted, *(path for path in candidates if _place(path) < _place(wanted))]
    notes: list[str] = []
    for path in candidates:
        try:
            return verify(path), notes
        except CheckpointIncomplete as error:
            notes.append(f"{error}; passed over for the one before")
    light = any(_kind(path) not in kinds for path in _named(folder))
    hint = "; ".join(notes) or ("there are light ones: `memdash run --warm-start` goes on from these" if light else "")
    raise CheckpointIncomplete(f"there is no complete {' or '.join(kinds)} checkpoint in {folder}", hint=hint)


def verify(path: Path) -> Checkpoint:
    """A checkpoint whose every file has the size and hash of the manifest. Raises CheckpointIncomplete."""
    checkpoint = read_manifest(path)
    for name, expected in checkpoint.files.items():
        if sha256(path / name) != expected["sha256"]:
            raise CheckpointIncomplete(f"{path.name}: {name} is damaged")
    return checkpoint


def seal(manifest: dict[str, Any]) -> bytes:
    """The bytes of a manifest, which end with the hash of all of them; the hash itself counts as zeros in it."""
    text = json.dumps(manifest | {"schema": SCHEMA, SEAL: NO_HASH}, indent=1).encode()
    return text.replace(NO_HASH.encode(), hashlib.sha256(text).hexdigest().encode())


def read_manifest(path: Path) -> Checkpoint:
    """The manifest of a checkpoint, its files checked for presence and size. Raises CheckpointIncomplete."""
    try:
        manifest = _unseal(path)
        files = dict(manifest["files"])
        for name, expected in files.items():
            if name.startswith("/") or ".." in Path(name).parts:
                raise CheckpointIncomplete(f"{path.name}: its manifest points outside")
            if (path / name).stat().st_size != int(expected["size_bytes"]):
                raise CheckpointIncomplete(f"{path.name}: {name} is cut short")
        return Checkpoint(
            path=path,
            step=int(manifest["step"]),
            kind=manifest["kind"],
            attempt=int(manifest["attempt"]),
            reason=str(manifest["reason"]),
            size_bytes=int(manifest["size_bytes"]),
            files={name: {"sha256": "", **expected} for name, expected in files.items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointIncomplete(f"{path.name}: incomplete ({type(error).__name__}: {error})") from None


def _unseal(path: Path) -> dict[str, Any]:
    """Raises CheckpointIncomplete when a byte of the manifest is not what was written, OSError, ValueError, KeyError."""
    text = (path / MANIFEST).read_bytes()
    manifest: dict[str, Any] = json.loads(text)
    found = str(manifest[SEAL]).encode()
    if hashlib.sha256(text.replace(found, NO_HASH.encode())).hexdigest().encode() != found:
        raise CheckpointIncomplete(f"{path.name}: {MANIFEST} is damaged")
    return manifest


def export(checkpoint: Checkpoint, target: Path) -> list[str]:
    """Copy what `from_pretrained` reads into a new directory; the names copied. Raises UsageError."""
    names = [name for name in checkpoint.files if name not in OURS]
    try:
        target.mkdir(parents=True)
        for name in names:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint.path / name, target / name)
    except OSError as error:
        raise UsageError(f"cannot export to {target}: {error}") from None
    return names


def _named(folder: Path) -> Iterator[Path]:
    """Directories named like checkpoints, complete or not."""
    return (path for path in folder.iterdir() if NAME.fullmatch(path.name)) if folder.is_dir() else iter(())


def _newest_first(folder: Path) -> list[Path]:
    """By attempt, then by step: one that went on from an old checkpoint is newer than what it left behind."""
    return sorted(_named(folder), key=lambda path: (_attempt(path), *_place(path)), reverse=True)


def _attempt(path: Path) -> int:
    """Of a manifest that cannot be read: the last one, so that it is tried first and leaves a note."""
    try:
        return int(_unseal(path)["attempt"])
    except (CheckpointIncomplete, OSError, ValueError, KeyError, TypeError):
        return sys.maxsize


def _kind(path: Path) -> str:
    """`light` or `full`, from the name."""
    match = NAME.fullmatch(path.name)
    return match[2] if match else ""


def _place(path: Path) -> tuple[int, bool, int]:
    """Where in the training: the step, there a full one after a light one, then the number."""
    match = NAME.fullmatch(path.name)
    return (int(match[1]), match[2] == "full", int(match[3] or 1)) if match else (-1, False, 0)


def sha256(path: Path) -> str:
    """Of a file's bytes. Raises CheckpointIncomplete when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointIncomplete(f"{path.parent.name}: {path.name} cannot be read: {error}") from None


def _find(folder: Path, asked: str) -> Path:
    path = folder / asked if "/" not in asked else Path(asked).expanduser().absolute()
    if not path.is_dir() or not NAME.fullmatch(path.name):
        raise UsageError(f"{asked}: there is no such checkpoint", hint="`memdash checkpoints RUN` lists them")
    return path

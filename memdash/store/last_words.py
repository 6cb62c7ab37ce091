"""What ranks have left on disk when they ended: the frames that no supervisor may have heard."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memdash import wire
from memdash.errors import MalformedMessage
from memdash.store.run_directory import RunDirectory

MAX_BYTES = 32 << 20  # four times what a rank writes


@dataclass(frozen=True)
class LastWords:
    """One rank's."""

    hello: wire.Hello
    messages: list[wire.Telemetry]
    """Oldest first; some may have been heard before."""
    written_s: float


def read_last_words(directory: RunDirectory, attempt: int) -> Iterator[LastWords]:
    """Those of this attempt's ranks; what is damaged or of another attempt is left out."""
    for path in sorted(directory.path.glob(wire.LAST_WORDS.format(rank="*"))):
        messages = list(_messages(path))
        hello = messages[0] if messages else None
        if isinstance(hello, wire.Hello) and (hello.run_id, hello.attempt) == (directory.run_id, attempt):
            yield LastWords(hello, messages[1:], path.stat().st_mtime)


def forget_last_words(directory: RunDirectory) -> None:
    """Once they have been taken in."""
    for path in directory.path.glob(wire.LAST_WORDS.format(rank="*") + "*"):  # half written ones, too
        path.unlink(missing_ok=True)


def _messages(path: Path) -> Iterator[wire.Telemetry]:
    with open(path, "rb") as file:
        frames = file.read(MAX_BYTES).splitlines()
    for frame in frames:
        try:
            yield wire.decode(wire.from_rank, frame)
        except MalformedMessage:
            continue

"""The journal: one JSON line per entry, append-only; a torn last line is cut off when it is opened."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from memdash import wire

_decoder = msgspec.json.Decoder(wire.JournalEntry)


class Journal:
    """Writes entries; each is one write(2), so a kill -9 loses none that was acknowledged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        cut_torn_line(path)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def append(self, entry: wire.JournalEntry) -> None:
        """Write one entry. Raises OSError, having written nothing, when the disk is full."""
        line = wire.encode(entry)
        written = os.write(self._file, line)
        if written < len(line):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(28, "no space left for the journal", str(self._path))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_journal(path: Path, last: int | None = None) -> list[wire.JournalEntry]:
    """The entries, oldest first; lines that are damaged are left out."""
    if not path.exists():
        return []
    entries = []
    lines = path.read_bytes().splitlines()
    for line in lines[-last:] if last else lines:
        try:
            entries.append(_decoder.decode(line))
        except msgspec.MsgspecError:
            continue
    return entries


def cut_torn_line(path: Path) -> int:
    """Cut what follows the last newline; the number of bytes cut."""
    if not path.exists():
        return 0
    with open(path, "r+b") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            file.truncate(whole)
        return len(data) - whole

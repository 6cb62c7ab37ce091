"""The journal: one JSON line per entry, append-only."""

from __future__ import annotations

from pathlib import Path

import msgspec

from memdash import wire
from memdash.store.lines import LineWriter

_decoder = msgspec.json.Decoder(wire.JournalEntry)


class Journal:
    """Writes entries."""

    def __init__(self, path: Path) -> None:
        self._lines = LineWriter(path)

    def append(self, entry: wire.JournalEntry) -> None:
        """Write one entry. Raises OSError, having written nothing, when the disk is full."""
        self._lines.append(wire.encode(entry))

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


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

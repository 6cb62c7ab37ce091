"""What a run had printed at any time: the output's files, and how long they were when."""

from __future__ import annotations

import os
from pathlib import Path

from memdash.store.run_directory import RunDirectory
from memdash.store.samples import SampleReader


class Printed:
    """Counts bytes from the first one ever printed; those of long ago may be gone."""

    def __init__(self, directory: RunDirectory) -> None:
        times = directory.samples / "output.rec"
        self._reader = SampleReader(times) if times.exists() else None
        self.begins_at = self._last("begins_at", len(self._reader) if self._reader else 0)
        """The first byte of output.log."""
        older = directory.output.with_name(directory.output.name + ".1")
        self._files = [(older, self.begins_at - _size(older)), (directory.output, self.begins_at)]

    @property
    def total(self) -> int:
        """All that has been printed by now."""
        return self.begins_at + _size(self._files[-1][0])

    def up_to(self, time_s: float) -> int:
        """What had been printed by then, as far as anybody looked."""
        return self._last("ends_at", self._reader.up_to(time_s)) if self._reader else 0

    def text(self, start: int, stop: int) -> str:
        """From one byte up to another; a letter that lies across one belongs to what comes after it."""
        return self._bytes(self._whole(start), self._whole(stop)).decode(errors="replace")

    def close(self) -> None:
        """Close the file."""
        if self._reader:
            self._reader.close()

    def _last(self, column: str, rows: int) -> int:
        if not (self._reader and rows):
            return 0
        return int(self._reader.columns(rows - 1, rows)[column][0])

    def _bytes(self, start: int, stop: int) -> bytes:
        data = b""
        for path, begins_at in self._files:
            if path.exists() and stop > begins_at:
                with open(path, "rb") as file:
                    file.seek(max(0, start - begins_at))
                    data += file.read(max(0, stop - max(start, begins_at)))
        return data

    def _whole(self, position: int) -> int:
        """Where the letter begins of which the byte here is a part."""
        if position >= self.total:
            return position
        near = self._bytes(max(0, position - 3), position + 1)
        continued = len(near) - len(near.rstrip(_CONTINUED))
        return position - continued if continued < 4 else position


def printed_before(directory: RunDirectory) -> int:
    """Bytes that were printed before the first one of output.log, as far as is recorded."""
    printed = Printed(directory)
    printed.close()
    return printed.begins_at


_CONTINUED = bytes(range(0x80, 0xC0))


def _size(path: Path) -> int:
    return os.stat(path).st_size if path.exists() else 0

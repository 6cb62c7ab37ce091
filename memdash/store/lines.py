"""Append-only files of lines; a torn last line is cut off when one is opened for writing."""

from __future__ import annotations

import os
from pathlib import Path


class LineWriter:
    """Each line is one write(2), so a kill -9 loses none that was acknowledged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        cut_torn_line(path)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def append(self, line: bytes) -> None:
        """Write one line with its newline. Raises OSError, having written nothing, when the disk is full."""
        written = os.write(self._file, line)
        if written < len(line):
            os.ftruncate(self._file, os.fstat(self._file).st_size - written)
            raise OSError(28, f"no space left for {self._path.name}", str(self._path))

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


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

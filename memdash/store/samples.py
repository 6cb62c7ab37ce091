"""Record files: fixed-width rows of float64 after a header that names the columns.

A row is one write(2); a torn last row is cut off when the file is opened for writing and left out when it is read.
Ints up to 2**53 are exact; a missing figure is NaN.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from memdash.errors import RecordCorrupt

MAGIC = b"memdash-samples-1\n"
_HEADER = struct.Struct("<II")  # length and crc32 of the JSON that follows


class SampleWriter:
    """Appends rows to one record file, made anew when missing."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = tuple(columns)
        self._row = struct.Struct(f"<{len(columns)}d")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        size = os.fstat(self._file).st_size
        if size == 0:
            size = os.write(self._file, _header(self._columns))
        header_size, there = read_header(path)
        if there != self._columns:
            raise RecordCorrupt(f"{path} has columns {there}, not {self._columns}")
        self._end = size - (size - header_size) % self._row.size
        os.ftruncate(self._file, self._end)

    def append(self, values: Sequence[float | None]) -> None:
        """Write one row. Raises OSError, having written nothing, when the disk is full."""
        row = self._row.pack(*(math.nan if value is None else value for value in values))
        written = os.pwrite(self._file, row, self._end)
        if written < len(row):
            os.ftruncate(self._file, self._end)
            raise OSError(28, "no space left for samples", str(self._path))
        self._end += written

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def read_header(path: Path) -> tuple[int, tuple[str, ...]]:
    """Size of the header and the column names. Raises RecordCorrupt."""
    with open(path, "rb") as file:
        start = file.read(len(MAGIC) + _HEADER.size)
        if not start.startswith(MAGIC) or len(start) < len(MAGIC) + _HEADER.size:
            raise RecordCorrupt(f"{path} is not a record file")
        length, crc = _HEADER.unpack(start[len(MAGIC) :])
        text = file.read(length)
    if len(text) != length or zlib.crc32(text) != crc:
        raise RecordCorrupt(f"{path} has a damaged header")
    return len(start) + length, tuple(json.loads(text))


def read_rows(path: Path) -> Iterator[dict[str, float | None]]:
    """Every whole row, oldest first. Raises RecordCorrupt."""
    header_size, columns = read_header(path)
    row = struct.Struct(f"<{len(columns)}d")
    with open(path, "rb") as file:
        file.seek(header_size)
        while chunk := file.read(row.size * 4096):
            for values in row.iter_unpack(chunk[: len(chunk) - len(chunk) % row.size]):
                yield {name: None if math.isnan(value) else value for name, value in zip(columns, values, strict=True)}


def _header(columns: Sequence[str]) -> bytes:
    text = json.dumps(list(columns)).encode()
    return MAGIC + _HEADER.pack(len(text), zlib.crc32(text)) + text

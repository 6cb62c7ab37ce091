"""Record files: fixed-width rows of float64 after a header that names the columns.

Rows that come together are one write(2); a torn last row is cut off when the file is opened for writing and left out when it is read.
Ints up to 2**53 are exact; a missing figure is NaN.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

from memdash.errors import RecordCorrupt

MAGIC = b"memdash-samples-1\n"
_HEADER = struct.Struct("<II")  # length and crc32 of the JSON that follows
CHUNK_ROWS = 4096


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
        if self._end < size:  # else the file's time stays when it was written last: until then somebody watched
            os.ftruncate(self._file, self._end)

    def append(self, *rows: Sequence[float | None]) -> None:
        """Write rows, all in one write. Raises OSError, having written none, when the disk is full."""
        pack = self._row.pack
        data = b"".join([pack(*[math.nan if value is None else value for value in row]) for row in rows])
        written = os.pwrite(self._file, data, self._end)
        if written < len(data):
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


class SampleReader:
    """Reads one record file, also while it is written: rows by number, and their number by time."""

    def __init__(self, path: Path) -> None:
        """Raises RecordCorrupt, or OSError when there is no such file."""
        self._start, self.names = read_header(path)
        self._row = struct.Struct(f"<{len(self.names)}d")
        self._file = open(path, "rb", buffering=0)

    def __len__(self) -> int:
        """Whole rows, now."""
        return max(0, os.fstat(self._file.fileno()).st_size - self._start) // self._row.size

    def columns(self, start: int, stop: int) -> dict[str, array[float]]:
        """The rows from `start` up to `stop`, a column each; a missing figure is NaN."""
        values = array("d", self.raw(start, stop))
        if sys.byteorder == "big":
            values.byteswap()
        return {name: values[at :: len(self.names)] for at, name in enumerate(self.names)}

    def rows(self, start: int, stop: int) -> Iterator[dict[str, float | None]]:
        """The same, a row each; a missing figure is None."""
        for at in range(start, stop, CHUNK_ROWS):
            for values in self._row.iter_unpack(self.raw(at, min(stop, at + CHUNK_ROWS))):
                pairs = zip(self.names, values, strict=True)
                yield {name: None if math.isnan(value) else value for name, value in pairs}

    def raw(self, start: int, stop: int) -> bytes:
        """The bytes of some rows; those that are not there, or not whole, are left out."""
        data = os.pread(
            self._file.fileno(), max(0, stop - start) * self._row.size, self._start + start * self._row.size
        )
        return data[: len(data) - len(data) % self._row.size]

    def time_s(self, number: int) -> float:
        """The first column of one row, which must be its time."""
        return float(self._row.unpack(self.raw(number, number + 1))[0])

    def up_to(self, time_s: float) -> int:
        """How many rows are no later than this."""
        return bisect_right(range(len(self)), time_s, key=self.time_s)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_rows(path: Path) -> Iterator[dict[str, float | None]]:
    """Every whole row, oldest first. Raises RecordCorrupt."""
    reader = SampleReader(path)
    try:
        yield from reader.rows(0, len(reader))
    finally:
        reader.close()


def _header(columns: Sequence[str]) -> bytes:
    text = json.dumps(list(columns)).encode()
    return MAGIC + _HEADER.pack(len(text), zlib.crc32(text)) + text

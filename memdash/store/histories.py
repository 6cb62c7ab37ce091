"""What was made of a record file, kept beside it, so that a long run opens without reading every row.

The record stays the truth: what is kept says up to which row it is true, names that row by its crc, and is replaced
whole. Where it is missing, damaged, or of another record, there is none, and all rows are read.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from memdash.store.run_directory import replace_file
from memdash.store.samples import SampleReader

MAGIC = b"memdash-history-1\n"
_HEAD = struct.Struct("<QIQI")  # rows, crc32 of the last of them, length and crc32 of what was made of them


def keep_history(record: Path, made: bytes) -> None:
    """Keep what was made of every row that is in the record now. Raises OSError."""
    reader = SampleReader(record)
    try:
        rows = len(reader)
        head = _HEAD.pack(rows, _mark(reader, rows), len(made), zlib.crc32(made))
    finally:
        reader.close()
    replace_file(_beside(record), MAGIC + head + made)


def kept_history(record: Path, reader: SampleReader) -> tuple[bytes, int]:
    """What was kept, and the number of rows that it was made of; nothing and 0 where it cannot be used."""
    try:
        data = _beside(record).read_bytes()
    except OSError:
        return b"", 0
    head = data[len(MAGIC) : len(MAGIC) + _HEAD.size]
    if not data.startswith(MAGIC) or len(head) < _HEAD.size:
        return b"", 0
    rows, mark, length, crc = _HEAD.unpack(head)
    made = data[len(MAGIC) + _HEAD.size :]
    whole = len(made) == length and zlib.crc32(made) == crc
    return (made, rows) if whole and rows <= len(reader) and mark == _mark(reader, rows) else (b"", 0)


def _mark(reader: SampleReader, rows: int) -> int:
    return zlib.crc32(reader.raw(max(0, rows - 1), rows))


def _beside(record: Path) -> Path:
    return record.with_suffix(".history")

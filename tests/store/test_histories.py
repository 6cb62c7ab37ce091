"""What was made of a record is used only as long as it is true of that record."""

from __future__ import annotations

import pytest

from memdash.store.histories import MAGIC, keep_history, kept_history
from memdash.store.samples import SampleReader, SampleWriter

MADE = b"what was made of it"
ROW = 16


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "host.rec"
    append(path, 1.0, 2.0, 3.0)
    keep_history(path, MADE)
    return path


def append(path, *times):
    writer = SampleWriter(path, ("time_s", "bytes"))
    for time_s in times:
        writer.append((time_s, 7.0))
    writer.close()


def kept(path):
    reader = SampleReader(path)
    try:
        return kept_history(path, reader)
    finally:
        reader.close()


def cut(path, count):
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - count)


def test_it_says_up_to_which_row_it_is_true(record):
    assert kept(record) == (MADE, 3)
    append(record, 4.0)
    assert kept(record) == (MADE, 3)
    keep_history(record, b"newer")
    assert kept(record) == (b"newer", 4)
    assert sorted(path.name for path in record.parent.iterdir()) == ["host.history", "host.rec"]


def test_a_torn_row_does_not_count(record):
    append(record, 4.0)
    cut(record, 5)
    keep_history(record, b"newer")
    assert kept(record) == (b"newer", 3)


def test_a_record_that_lost_rows_and_grew_again(record):
    cut(record, ROW)
    assert kept(record) == (b"", 0)
    append(record, 3.5, 4.5)
    assert kept(record) == (b"", 0)  # long enough, but the third row is another


def test_one_of_another_run(record, tmp_path):
    other = tmp_path / "other.rec"
    append(other, 1.5, 2.5, 3.5, 4.5)
    record.with_suffix(".history").rename(other.with_suffix(".history"))
    assert kept(other) == (b"", 0)
    assert kept(record) == (b"", 0)


@pytest.mark.parametrize("at", [0, len(MAGIC), len(MAGIC) + 3, len(MAGIC) + 9, len(MAGIC) + 16, -1])
def test_a_flipped_byte(record, at):
    path = record.with_suffix(".history")
    data = bytearray(path.read_bytes())
    data[at] ^= 0x40
    path.write_bytes(data)
    assert kept(record) == (b"", 0)


@pytest.mark.parametrize("size", [0, 5, len(MAGIC), len(MAGIC) + 10, -1])
def test_a_part_of_it(record, size):
    path = record.with_suffix(".history")
    path.write_bytes(path.read_bytes()[:size])
    assert kept(record) == (b"", 0)

"""Record files survive a torn tail, and say so when they are something else."""

from __future__ import annotations

import math
import os

import pytest

from memdash.errors import RecordCorrupt
from memdash.store.samples import SampleReader, SampleWriter, read_header, read_rows

COLUMNS = ("time_s", "bytes")


def write(path, rows):
    writer = SampleWriter(path, COLUMNS)
    for row in rows:
        writer.append(row)
    writer.close()


def test_round_trip_and_append(tmp_path):
    path = tmp_path / "x.rec"
    write(path, [(1.5, 2**53), (2.5, None)])
    write(path, [(3.5, 7)])
    assert list(read_rows(path)) == [
        {"time_s": 1.5, "bytes": 2**53},
        {"time_s": 2.5, "bytes": None},
        {"time_s": 3.5, "bytes": 7},
    ]


def test_opening_a_whole_file_leaves_no_trace(tmp_path):
    """When it was written last says until when a run was watched."""
    path = tmp_path / "x.rec"
    write(path, [(1.0, 1)])
    os.utime(path, (1000.0, 1000.0))
    write(path, [])
    assert os.path.getmtime(path) == 1000.0


@pytest.mark.parametrize("torn", range(1, 16))
def test_a_torn_row_is_left_out_and_then_cut_off(tmp_path, torn):
    path = tmp_path / "x.rec"
    write(path, [(1.0, 1), (2.0, 2)])
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) - torn)
    assert [row["bytes"] for row in read_rows(path)] == [1]
    write(path, [(3.0, 3)])
    assert [row["bytes"] for row in read_rows(path)] == [1, 3]


@pytest.mark.parametrize("damage", [b"", b"something else entirely", b"memdash-samples-1\nxxxxxxxx[]"])
def test_other_files_are_corrupt(tmp_path, damage):
    path = tmp_path / "x.rec"
    path.write_bytes(damage)
    with pytest.raises(RecordCorrupt):
        read_header(path)


def test_other_columns_are_refused(tmp_path):
    path = tmp_path / "x.rec"
    write(path, [(1.0, 1)])
    with pytest.raises(RecordCorrupt, match="has columns"):
        SampleWriter(path, ("time_s", "other"))


def test_rows_by_number_and_by_time_while_it_is_written(tmp_path):
    path = tmp_path / "x.rec"
    writer = SampleWriter(path, COLUMNS)
    for time_s in (1.0, 2.0, 2.0, 3.5):
        writer.append((time_s, None if time_s == 2.0 else 7))
    reader = SampleReader(path)
    assert len(reader) == 4
    assert [reader.up_to(time_s) for time_s in (0.5, 1.0, 1.5, 2.0, 3.4, 3.5, 9.0)] == [0, 1, 1, 3, 3, 4, 4]
    assert list(reader.rows(1, 9)) == [
        {"time_s": 2.0, "bytes": None},
        {"time_s": 2.0, "bytes": None},
        {"time_s": 3.5, "bytes": 7},
    ]
    columns = reader.columns(0, 2)
    assert columns["time_s"].tolist() == [1.0, 2.0]
    assert columns["bytes"][0] == 7
    assert math.isnan(columns["bytes"][1])
    writer.append((4.0, 8))
    assert (len(reader), reader.up_to(3.9)) == (5, 4)
    writer.close()
    with open(path, "ab") as file:
        file.write(b"torn")
    assert len(reader) == 5
    assert list(reader.rows(4, 6)) == [{"time_s": 4.0, "bytes": 8}]
    reader.close()

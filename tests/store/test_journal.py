"""The journal survives a torn last line."""

from __future__ import annotations

import pytest

from memdash import wire
from memdash.store.journal import Journal, read_journal


def entry(seq: int) -> wire.JournalEntry:
    return wire.JournalEntry(seq=seq, time_s=1.0, attempt=0, step=seq, level="info", kind="state", text=f"entry {seq}")


def write(path, *numbers):
    journal = Journal(path)
    for number in numbers:
        journal.append(entry(number))
    journal.close()


def test_round_trip(tmp_path):
    path = tmp_path / "journal.jsonl"
    assert read_journal(path) == []
    write(path, 1, 2, 3)
    assert read_journal(path) == [entry(1), entry(2), entry(3)]
    assert read_journal(path, last=2) == [entry(2), entry(3)]


@pytest.mark.parametrize("torn", [1, 10, 50])
def test_a_torn_line_is_left_out_and_then_cut_off(tmp_path, torn):
    path = tmp_path / "journal.jsonl"
    write(path, 1, 2)
    path.write_bytes(path.read_bytes()[:-torn])
    assert [found.seq for found in read_journal(path)] in ([1], [1, 2])
    write(path, 3)
    assert [found.seq for found in read_journal(path)] == [1, 3]


def test_a_damaged_line_costs_only_itself(tmp_path):
    path = tmp_path / "journal.jsonl"
    write(path, 1, 2, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00\x00 garbage\n" + lines[2])
    assert [found.seq for found in read_journal(path)] == [1, 3]

"""A disk that is full for an hour, with a write that succeeds now and then, is two lines in the journal."""

from __future__ import annotations

from dataclasses import dataclass

from memdash.supervisor.record_trouble import QUIET_S, RecordTrouble

HISTORIES = {
    "never": ([(0, 0.0), (0, 1.0)], []),
    "a full disk that takes a row now and then": (
        [(0, 0.0), (8, 1.0), (8, 1.1), (17, 1.5), (17, 2.0), (25, 5.0), (25, 14.0), (25, 15.0), (25, 16.0)],
        [(1.0, "the run's record cannot be written: full"), (15.0, "the record is written again after 4.0s; records lost: 25")],
    ),
    "twice": (
        [(1, 1.0), (1, 1.0 + QUIET_S), (3, 100.0), (3, 100.0 + QUIET_S)],
        [
            (1.0, "the run's record cannot be written: full"),
            (11.0, "the record is written again after 0ms; records lost: 1"),
            (100.0, "the run's record cannot be written: full"),
            (110.0, "the record is written again after 0ms; records lost: 2"),
        ],
    ),
}  # fmt: skip


@dataclass
class Record:
    """As counted."""

    failed: int
    lost: int
    error: str = "full"


def test_histories():
    for name, (looks, expected) in HISTORIES.items():
        trouble = RecordTrouble()
        told = [(now_s, trouble.look(Record(failed, lost=failed), now_s)) for failed, now_s in looks]
        assert [(now_s, found[1]) for now_s, found in told if found] == expected, name


def test_what_was_written_late_is_not_lost():
    trouble = RecordTrouble()
    trouble.look(Record(failed=3, lost=0), 1.0)
    found = trouble.look(Record(failed=3, lost=0), 1.0 + QUIET_S)
    assert found == ("good", "the record is written again after 0ms; records lost: 0")

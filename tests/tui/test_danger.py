"""Danger levels are entered at 10 and 5 %, left a little above, and told once."""

from __future__ import annotations

import pytest

from memdash.tui.board import Board
from memdash.tui.danger import Danger, danger, headroom_fraction, warning
from memdash.units import MIB
from tests.tui import scenes

HISTORIES = [
    ("falls step by step", [0.5, 0.11, 0.099, 0.06, 0.049, 0.0, -0.1], [0, 0, 1, 1, 2, 2, 2]),
    ("falls at once", [0.5, 0.01], [0, 2]),
    ("saw-tooth at 10 %", [0.099, 0.101, 0.099, 0.119, 0.099], [1, 1, 1, 1, 1]),
    ("saw-tooth at 5 %", [0.049, 0.051, 0.049, 0.069], [2, 2, 2, 2]),
    ("recovers", [0.049, 0.071, 0.119, 0.121, 0.099], [2, 1, 1, 0, 1]),
    ("becomes unknown", [0.01, None, 0.2], [2, 0, 0]),
]


@pytest.mark.parametrize(("story", "fractions", "levels"), HISTORIES, ids=[story for story, _, _ in HISTORIES])
def test_histories(story: str, fractions: list[float | None], levels: list[int]) -> None:
    level, seen = Danger.NONE, []
    for fraction in fractions:
        level = danger(level, fraction)
        seen.append(int(level))
    assert seen == levels


@pytest.mark.parametrize(
    ("headroom", "capacity", "fraction"), [(5, 100, 0.05), (None, 100, None), (5, None, None), (5, 0, None)]
)
def test_fraction(headroom: int | None, capacity: int | None, fraction: float | None) -> None:
    assert headroom_fraction(headroom, capacity) == fraction


@pytest.mark.parametrize(
    ("where", "changes", "advice"),
    [
        ("device", {}, "b: smaller micro-batch"),
        ("device", {"micro_batch": 1}, "C: full checkpoint, then s: stop"),
        ("device", {"capabilities": {"SetBatchSplit": "no"}}, "C: full checkpoint, then s: stop"),
        ("host", {}, "C: full checkpoint before the kernel kills it · b: smaller micro-batch"),
    ],
)
def test_the_warning_says_which_how_much_and_what_to_do(where: str, changes: dict[str, object], advice: str) -> None:
    text = warning(where, 20 * MIB, 512 * MIB, scenes.state(**changes))
    assert text == f"{where} headroom 4%: 20.0 MiB of 512 MiB left\n{advice}"


def test_the_board_tells_each_level_once_and_for_both_memories() -> None:
    board = Board()
    board.take(scenes.state())
    told = []
    for number, peak in enumerate((300, 470, 472, 470, 495, 500, 300, 470)):
        board.take(scenes.step(number, number, scenes.device(100, peak, 500)))
        told += [(where, int(level)) for where, level, _ in board.alarms()]
    assert told == [("device", 1), ("device", 2), ("device", 1)]
    board.take(scenes.host_sample(9, 7.5))
    assert [(where, int(level)) for where, level, _ in board.alarms()] == [("host", 2)]


def test_a_run_that_is_over_raises_no_alarm() -> None:
    board = Board()
    board.take(scenes.state(status="oom"))
    board.take(scenes.step(1, 1, scenes.device(100, 511, 511)))
    assert board.alarms() == []
    assert board.headroom("device") == (1 * MIB, 512 * MIB)
    assert board.headroom("host") == (None, None)

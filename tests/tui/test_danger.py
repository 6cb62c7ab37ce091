"""Danger levels are entered at 10 and 5 %, left a little above, and told once."""

from __future__ import annotations

import msgspec
import pytest

from memdash import wire
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


def told(board: Board, *messages: wire.FromSupervisor) -> list[tuple[str, int]]:
    """The alarms after each of these."""
    levels = []
    for message in messages:
        board.take(message)
        levels += [(where, int(level)) for where, level, _ in board.alarms()]
    return levels


OOM = wire.OomReport(
    rank=0, time_s=scenes.T0, step=4, where="forward/backward", micro_batch=16, next_micro_batch=8, message="no room"
)


@pytest.mark.parametrize(
    "noticed",
    [
        [OOM, scenes.state(num_ooms=1, num_recoveries=1)],
        [scenes.state(num_ooms=1, num_recoveries=1), OOM],
        [OOM],
        [scenes.state(num_ooms=1, num_recoveries=1)],
    ],
    ids=["report, state", "state, report", "report", "state"],
)
def test_the_peak_of_a_split_that_was_given_up_is_nothing_to_warn_of(noticed: list[wire.FromSupervisor]) -> None:
    board = Board()
    high, sample = (
        scenes.device(100, 511, 511),
        wire.MemorySample(rank=0, seq=6, time_s=scenes.T0, step=5, memory=scenes.device(100, 100, 511)),
    )
    before: list[wire.FromSupervisor] = [
        scenes.state(),
        scenes.step(4, 4, scenes.device(100, 300, 511), micro_batch=16),
    ]
    assert told(board, *before, *noticed, sample, scenes.step(5, 5, high), sample) == []
    assert board.peaks == {16: 300 * MIB}  # and it is not the peak of the smaller split
    assert told(board, scenes.step(6, 6, scenes.device(100, 250, 511)), scenes.state(num_recoveries=1)) == []
    assert told(board, scenes.step(7, 7, high)) == [("device", 2)]


def test_an_error_that_ends_the_run_and_a_host_that_is_full_are_still_told() -> None:
    board = Board()
    fatal = msgspec.structs.replace(OOM, next_micro_batch=None)
    assert told(board, scenes.state(), fatal, scenes.step(5, 5, scenes.device(100, 511, 511))) == [("device", 2)]
    assert told(board, OOM, scenes.host_sample(6, 7.5)) == [("host", 2)]


def test_a_danger_that_goes_on_after_the_recovery_is_told() -> None:
    board, high = Board(), scenes.device(100, 511, 511)
    assert told(board, scenes.state(), OOM, scenes.step(5, 5, high)) == []
    assert told(board, scenes.step(6, 6, high)) == [("device", 2)]


def test_a_run_that_is_over_raises_no_alarm() -> None:
    board = Board()
    board.take(scenes.state(status="oom"))
    board.take(scenes.step(1, 1, scenes.device(100, 511, 511)))
    assert board.alarms() == []
    assert board.headroom("device") == (1 * MIB, 512 * MIB)
    assert board.headroom("host") == (None, None)

"""The figures stand apart at every width, and the headroom is the last to go."""

from __future__ import annotations

import re

import pytest

from memdash import wire
from memdash.tui.board import Board
from memdash.tui.figures import elapsed_text, ending, figures
from memdash.tui.widgets.figures_view import column_widths, pairs
from tests.tui import scenes

LONGEST = {"global_batch": 2048, "micro_batch": 128, "learning_rate": 9.5e-4, "items_per_s": 999_950.0}


def board(**changes: object) -> Board:
    made = Board()
    for message in (
        scenes.state(last_checkpoint="/r/checkpoints/step-00012345-light", **changes),
        scenes.host_sample(1, 4.48),
        scenes.step(1, 1, scenes.device(180, 301, 352)),
    ):
        made.take(message)
    return made


def rows(shown: Board, width: int) -> list[str]:
    return "".join(text for text, _ in pairs(figures(shown), width)).split("\n")


@pytest.mark.parametrize(
    ("changes", "split"),
    [
        (LONGEST, "128 x 16 = 2048"),
        ({"global_batch": 16, "micro_batch": 5}, "5+5+5+1 = 16"),
        ({"item_name": "examples", "items_per_s": 1482.0}, "8 x 2 = 16"),
    ],
)
def test_at_80_columns_every_figure_is_whole(changes: dict[str, object], split: str) -> None:
    first, second = rows(board(**changes), 78)
    assert max(len(first), len(second)) <= 79
    for words in ("sim dev 41% 211 MiB ", f" split {split} ", " ckpt light @ 12,345"):
        assert words in first
    for words in ("host    41% 3.12 GiB ", " lr ", " OOMs 1"):
        assert re.sub(" +", " ", words) in re.sub(" +", " ", second)
    assert "…" not in first + second


@pytest.mark.parametrize("width", [*range(18, 140, 3), 140, 175])
@pytest.mark.parametrize("changes", [LONGEST, {"global_batch": 17, "micro_batch": 5}, {"learning_rate": None}])
def test_columns_never_touch_and_the_headroom_is_always_said(width: int, changes: dict[str, object]) -> None:
    shown = board(**changes)
    lines = rows(shown, width)
    assert all(len(line.rstrip()) <= width for line in lines)
    for line, percent in zip(lines, ("41%", "41%"), strict=True):
        assert f" {percent} " in line
    values = [figure.value for figure in figures(shown)]
    for line in lines:
        for value in values:
            at = line.find(value)
            if at >= 0 and len(value) > 3:
                assert line[at + len(value) : at + len(value) + 1] in (" ", ""), line


def test_a_column_takes_room_from_those_that_can_spare_it() -> None:
    parts = (0.25, 0.25, 0.25, 0.25)
    assert column_widths([10, 10, 10, 10], parts, 80) == [20, 20, 20, 20]
    assert column_widths([10, 35, 10, 10], parts, 80) == [15, 35, 15, 15]
    assert column_widths([20, 20, 20, 20], parts, 75) == [20, 20, 20, 15]
    assert column_widths([20, 20, 20, 20], parts, 65) == [20, 20, 20]
    assert column_widths([20, 20, 20, 20], parts, 12) == [12]


def test_unknown_headroom_is_not_invented() -> None:
    shown = Board()
    shown.take(scenes.state(memory=wire.DeviceMemory(device="cpu", kind="unavailable")))
    assert rows(shown, 78)[0].startswith("device n/a ")


def test_a_later_attempt_shows_its_own_time_and_that_of_all() -> None:
    assert elapsed_text(board(), scenes.T0 + 90) == "1m30s"
    later = {"attempt": 2, "started_s": scenes.T0 + 90_000, "past_s": 5280.0, "paused_s": 60.0}
    assert elapsed_text(board(**later), scenes.T0 + 90_780) == "12m00s, 1h40m in all"
    over = board(**later, status="stopped", ended_s=scenes.T0 + 90_120)
    assert "1m00s, 1h29m in all" in ending(over)

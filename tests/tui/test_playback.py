"""A recording in the dashboard: where the keys lead, what the bar shows, and what cannot be asked any more."""

from __future__ import annotations

import msgspec
import pytest

from memdash import wire
from memdash.tui.app import Dashboard
from memdash.tui.palette import DANGER, WARNING
from memdash.tui.playback import cells, next_mark, next_speed, step_s, time_at, within
from memdash.tui.widgets.header import Header
from memdash.tui.widgets.journal import JournalPane
from memdash.tui.widgets.key_bar import KeyBar
from memdash.tui.widgets.scrubber import Scrubber, bar
from tests.tui import scenes
from tests.tui.conftest import FakeClient, dashboard_on, screen_text, told

pytestmark = pytest.mark.filterwarnings("error")
T0 = scenes.T0
MARKS = [
    wire.Mark(time_s=T0 + 31, level="warning"),
    wire.Mark(time_s=T0 + 60, level="error"),
    wire.Mark(time_s=T0 + 100, level="warning"),
]
AT_60 = wire.Playback(time_s=T0 + 60, start_s=T0, end_s=T0 + 120, speed=10.0, playing=True, marks=MARKS)
LIFE = [msgspec.structs.replace(AT_60, anew=True), *scenes.life(60.0)]


def at(seconds: float, **changes: object) -> wire.Playback:
    return msgspec.structs.replace(AT_60, time_s=T0 + seconds, **changes)


# ---- pure ----


@pytest.mark.parametrize(
    ("length_s", "large", "expected_s"), [(120, False, 10), (120, True, 60), (43_200, False, 10), (43_200, True, 432)]
)
def test_how_far_an_arrow_goes(length_s: float, large: bool, expected_s: float) -> None:
    assert step_s(msgspec.structs.replace(AT_60, end_s=T0 + length_s), large=large) == expected_s


@pytest.mark.parametrize(
    ("seconds", "direction", "expected"),
    [(0, 1, 31), (31, 1, 60), (59.8, 1, 60), (100, 1, None), (60, -1, 31), (31, -1, None), (120, -1, 100)],
)
def test_the_next_mark(seconds: float, direction: int, expected: float | None) -> None:
    mark = next_mark(at(seconds, playing=False), direction)
    assert (mark and mark.time_s - T0) == expected


@pytest.mark.parametrize(("seconds", "expected"), [(60, 31), (66, 31), (70, 60)])
def test_back_twice_while_it_plays(seconds: float, expected: float) -> None:
    mark = next_mark(at(seconds, speed=10.0), -1)
    assert mark
    assert mark.time_s - T0 == expected


@pytest.mark.parametrize(
    ("speed", "direction", "expected"), [(10, 1, 20), (10, -1, 5), (1, -1, 1), (1000, 1, 1000), (7, 1, 10)]
)
def test_the_next_speed(speed: float, direction: int, expected: float) -> None:
    assert next_speed(at(0, speed=float(speed)), direction) == expected


def test_cells_of_the_bar() -> None:
    now, marks = cells(AT_60, 61)
    assert now == 30
    assert marks == {16: "warning", 30: "error", 50: "warning"}
    assert cells(at(-5), 61)[0] == 0
    assert cells(at(500), 61)[0] == 60
    assert cells(AT_60, 1) == (0, {0: "error"})  # the worst
    assert [time_at(AT_60, cell, 61) - T0 for cell in (0, 30, 60)] == [0, 60, 120]
    assert within(AT_60, T0 + 500) == T0 + 120


def test_the_bar_says_where_and_what() -> None:
    words = bar(at(0), 61)
    assert "".join(text for text, _ in words) == "●" + "─" * 15 + "!" + "─" * 13 + "✗" + "─" * 19 + "!" + "─" * 10
    colours = dict(words)
    assert DANGER in colours["✗"]
    assert WARNING in colours["!"]
    assert "".join(text for text, _ in bar(at(120, marks=[]), 5)) == "━━━━●"


# ---- the dashboard ----


class Said:
    """A dashboard on a recording, and what it asks for."""

    def __init__(self) -> None:
        self.client = FakeClient(*LIFE)
        self.app: Dashboard = dashboard_on(self.client)

    def asked(self) -> list[object]:
        """Where to, in seconds; or speed and whether it plays."""
        return [
            command.time_s - T0 if isinstance(command, wire.Seek) else (command.speed, command.playing)
            for command in self.client.sent
        ]


@pytest.mark.parametrize(
    ("keys", "asked"),
    [
        (["space"], [(10, False)]),
        (["space", "space"], [(10, False), (10, True)]),
        (["right"], [70]),
        (["right", "right", "left"], [70, 80, 70]),  # from where the last key led, not from what was told
        (["shift+left"], [0]),
        (["shift+right", "shift+right"], [120, 120]),
        (["home"], [0]),
        (["end"], [120]),
        (["<"], [(5, True)]),
        ([">", ">"], [(20, True), (50, True)]),
        (["]", "["], [(20, True), (10, True)]),
        (["n", "N"], [100, 60]),
        (["end", "n"], [120]),
        (["p", "P", "c", "C", "b", "e", "m", "s"], []),
    ],
)
async def test_keys(keys: list[str], asked: list[object]) -> None:
    run = Said()
    async with run.app.run_test(size=(120, 40)) as pilot:
        await told(run.app, pilot, run.client)
        await pilot.press(*keys)
        assert run.asked() == asked


async def test_what_it_looks_like() -> None:
    run = Said()
    async with run.app.run_test(size=(80, 24)) as pilot:
        await told(run.app, pilot, run.client)
        lines = screen_text(run.app)
        assert " REPLAY " in lines[0]
        assert "1m00s" in lines[0]  # the recording's time, not ours
        assert lines[-2].startswith(" ► x10")
        assert "1m00s" in lines[-2]
        assert lines[-2].rstrip().endswith("2m00s")
        assert "!" in lines[-2]
        assert "space hold" in lines[-1]
        assert "q leave" in lines[-1]
        keys = run.app.screen.query_one(KeyBar)
        assert {"p", "P", "c", "C", "b", "e", "m", "s"} <= set(keys.greyed)
        assert {"space", "←→", "<>", "n", "q", "?"} <= set(keys.shown)
        await pilot.press("space", "p")
        await pilot.pause()
        assert screen_text(run.app)[-2].startswith(" ‖ x10")
        assert [f"{toast.title}: {toast.message}" for toast in run.app._notifications] == [
            "p: pause: this is a recording"
        ]


async def test_a_click_on_the_bar() -> None:
    run = Said()
    async with run.app.run_test(size=(120, 40)) as pilot:
        await told(run.app, pilot, run.client)
        line = screen_text(run.app)[-2]
        first, last = line.index("━"), max(line.rindex("─"), line.rindex("━"))
        await pilot.click(Scrubber, offset=(first, 0))
        await pilot.click(Scrubber, offset=(last, 0))
        await pilot.click(Scrubber, offset=(2, 0))  # not the bar
        assert run.asked() == [pytest.approx(0, abs=0.5), pytest.approx(120, abs=0.5)]


async def test_a_seek_forgets_what_was_shown() -> None:
    run = Said()
    async with run.app.run_test(size=(120, 40)) as pilot:
        await told(run.app, pilot, run.client)
        assert run.app.board.journal
        assert run.app.board.series["loss"].last is not None
        early = scenes.state(step=1, loss=9.0)
        await told(run.app, pilot, run.client, at(2, anew=True), early, scenes.entry(1, 2, 0, "started"))
        board = run.app.board
        assert [entry.text for entry in board.journal] == ["started"]
        assert board.series["loss"].last is None
        assert (board.host, board.devices, board.state) == (None, {}, early)
        assert run.app.screen.query_one(JournalPane).texts[0].endswith("started")
        assert " 2.0s" in run.app.screen.query_one(Header).text


async def test_nobody_is_warned_of_what_is_over() -> None:
    run = Said()
    async with run.app.run_test(size=(120, 40)) as pilot:
        await told(run.app, pilot, run.client, scenes.step(60, 500, scenes.device(150, 511, 511)))
        assert run.app.board.dangers["device"] > 0
        assert not run.app._notifications


async def test_a_live_run_has_no_scrubber_and_no_such_keys() -> None:
    client = FakeClient(*scenes.life(20.0))
    app = dashboard_on(client)
    async with app.run_test(size=(120, 40)) as pilot:
        await told(app, pilot, client)
        await pilot.press("space", "left", "right", "home", "end", "<", ">", "n", "N", "shift+left")
        assert client.sent == []
        assert not app.screen.query_one(Scrubber).size.height
        assert "REPLAY" not in screen_text(app)[0]


@pytest.mark.parametrize("size", [(80, 24), (60, 15), (40, 10), (30, 12), (20, 5), (10, 3), (1, 1)])
async def test_any_size(size: tuple[int, int]) -> None:
    run = Said()
    async with run.app.run_test(size=size) as pilot:
        await told(run.app, pilot, run.client)
        await pilot.press("space", "right")
        text = " ".join(screen_text(run.app)).lower()
        assert "replay" in text or size[0] < 20

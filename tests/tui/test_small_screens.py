"""What must be seen however little room, or colour, there is."""

from __future__ import annotations

import re

import pytest

from memdash import wire
from memdash.tui.widgets.banner import banner_lines
from memdash.tui.widgets.key_bar import KeyBar
from tests.tui import scenes
from tests.tui.conftest import FakeClient, dashboard_on, screen_text, told

pytestmark = pytest.mark.filterwarnings("error")
LIFE = scenes.life(40.0)
SIZE = (120, 40)


async def test_without_colours_it_lives_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    client = FakeClient()
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await pilot.pause()  # nothing has come yet, and every pane is drawn all the same
        await told(app, pilot, client, *LIFE)
        for key in ("1", "2", "3", "4", "0", "b", "escape", "s", "escape", "question_mark", "escape"):
            await pilot.press(key)
        for widget in app.screen.query("PlotView, LinePane"):
            segments = [segment for y in range(widget.size.height) for segment in widget.render_line(y)]
            assert all(segment.style is not None for segment in segments), widget


@pytest.mark.parametrize("size", [(20, 12), (20, 3), (29, 40), (40, 7), (30, 8), (40, 10), (60, 15), (80, 24)])
async def test_the_headroom_is_on_every_screen(size: tuple[int, int]) -> None:
    client = FakeClient(*LIFE, scenes.host_sample(40, 5), scenes.step(41, 413, scenes.device(180, 301, 352)))
    app = dashboard_on(client)
    async with app.run_test(size=size) as pilot:
        await told(app, pilot, client)
        lines = screen_text(app)
        if size[0] < 30 or size[1] < 8:
            assert [line for line in lines if line.strip()] == [lines[0]]
            assert lines[0].startswith("34%")
            assert "● running" in lines[0]
        else:
            assert " 41% " in lines[2]
            assert " 34% " in lines[3]
            assert lines[-1].rstrip().endswith("q detach  ? help")
            assert size[0] < 40 or "ETA 3m49s" in lines[1]
            assert "●" not in lines[2]


@pytest.mark.parametrize("width", [30, 45, 60, 76, 80, 100, 110, 127, 160])
@pytest.mark.parametrize("keys", [[], ["2"]])
async def test_the_footer_keeps_the_way_out_and_the_help(width: int, keys: list[str]) -> None:
    client = FakeClient(scenes.state(status="paused"))
    app = dashboard_on(client)
    async with app.run_test(size=(width, 24)) as pilot:
        await told(app, pilot, client)
        await pilot.press(*keys)
        await told(app, pilot, client)
        footer = screen_text(app)[-1]
        assert "q detach" in footer
        assert "? help" in footer
        assert len(footer.rstrip()) < width
        bar = app.screen.query_one(KeyBar)
        assert bar.shown[-2:] == ["q", "?"]
        if 60 <= width < 110:
            assert ("0" in bar.shown) == bool(keys)


@pytest.mark.parametrize(
    ("size", "keys", "words"),
    [
        ((80, 24), [], "journal ─ 1 memory  2 training  3 journal  4 output  w time  z zoom ─"),
        ((60, 15), [], "journal ─ 1 memory  2 training  3 journal  4 output ─"),
        ((40, 15), [], "journal ─────"),
        ((80, 24), ["3"], "journal ─────"),
        ((120, 40), [], "journal ─────"),  # the footer says it
    ],
)
async def test_the_other_views_are_found(size: tuple[int, int], keys: list[str], words: str) -> None:
    client = FakeClient(*LIFE)
    app = dashboard_on(client)
    async with app.run_test(size=size) as pilot:
        await told(app, pilot, client)
        await pilot.press(*keys)
        await told(app, pilot, client)
        assert [line for line in screen_text(app) if words in line]


async def test_output_is_wrapped_to_what_is_seen() -> None:
    client = FakeClient(scenes.state())
    app = dashboard_on(client)
    async with app.run_test(size=(40, 15)) as pilot:
        await told(app, pilot, client)
        await pilot.press("4")
        line = "".join(chr(ord("a") + index % 26) for index in range(100))
        await told(app, pilot, client, *(wire.OutputChunk(text=f"{line}\n") for _ in range(8)))
        seen = "".join(row.rstrip("▁▂▃▄▅▆▇█ ") for row in screen_text(app)[5:-1])
        assert line * 3 in seen
        await pilot.press("3")
        text = " ".join(f"w{index:03}" for index in range(40))
        await told(app, pilot, client, *(scenes.entry(seq, seq, seq, text) for seq in range(4)))
        words = re.findall(r"w\d+", " ".join(screen_text(app)[5:-1]))
        assert len(words) > 30
        assert all(len(word) == 4 for word in words)


async def test_at_80_columns_the_end_is_told_in_two_lines_and_not_by_the_last_batch_alone() -> None:
    client = FakeClient(*LIFE)
    app = dashboard_on(client)
    end = {"status": "stopped", "status_reason": "stop command, checkpoint full", "exit_code": 10, "loss": 3.0}
    ended = scenes.state(ended_s=scenes.T0 + 120, metrics={"eval_loss": 4.353}, **end)
    async with app.run_test(size=(80, 24)) as pilot:
        await told(app, pilot, client, ended)
        lines = [line.strip() for line in screen_text(app)]
        assert lines[1] == "■ stopped: stop command, checkpoint full · exit code 10 · step 412 of 1,200"
        assert re.fullmatch(r"2m00s · loss 9.128 -> 5\.\d+ · validation loss 4.353 · q: leave", lines[2])
        assert lines[3].startswith("step 412/1,200")
        await pilot.resize_terminal(140, 24)
        await told(app, pilot, client)
        assert screen_text(app)[2].strip().startswith("step 412/1,200")


@pytest.mark.parametrize("width", range(1, 90, 4))
def test_a_banner_is_two_lines_at_most(width: int) -> None:
    lines = banner_lines(["✗ failed: " + "a reason in many words " * 9, "exit code 1", "step 1,200 of 1,200"], width)
    assert len(lines) <= 2
    assert all(len(line) <= width for line in lines)
    assert width < 3 or lines[-1].endswith("…")

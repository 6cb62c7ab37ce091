"""Toasts on small screens and over dialogs, as they are really shown."""

from __future__ import annotations

import pytest
from textual.widgets._toast import Toast

from memdash import wire
from memdash.tui.app import Dashboard
from tests.tui import scenes
from tests.tui.conftest import FakeClient, dashboard_on, screen_text, told

LIFE = scenes.life(20.0)
NARROW, WIDE = (80, 24), (120, 40)


def answer(text: str, *, ok: bool = True, step: int | None = 299) -> wire.CommandResult:
    return wire.CommandResult(command_id="x", command="Pause", ok=ok, applied_at_step=step, text=text)


def shown(app: Dashboard) -> list[Toast]:
    return [toast for toast in app.screen.query(Toast) if toast.display]


@pytest.mark.parametrize(("size", "count"), [(NARROW, 2), (WIDE, 4)])
async def test_few_at_once_and_the_newest_stay(size: tuple[int, int], count: int) -> None:
    client = FakeClient(*LIFE)
    app = dashboard_on(client)
    async with app.run_test(size=size, notifications=True) as pilot:
        await told(app, pilot, client)
        await told(app, pilot, client, *(answer(f"answer {index}") for index in range(6)))
        await pilot.pause()
        toasts = shown(app)
        assert [toast._notification.message for toast in toasts] == [
            f"answer {index} (step 299)" for index in range(6 - count, 6)
        ]
        assert all(toast._notification.timeout <= 3 for toast in toasts)
        assert all(toast.outer_size.width <= (40 if size == NARROW else 60) for toast in toasts)


@pytest.mark.parametrize(("size", "longest_s"), [(NARROW, 8), (WIDE, 12)])
async def test_a_danger_stays_longer(size: tuple[int, int], longest_s: float) -> None:
    client = FakeClient(*LIFE)
    app = dashboard_on(client)
    async with app.run_test(size=size, notifications=True) as pilot:
        await told(app, pilot, client, scenes.step(21, 90, scenes.device(100, 500, 511)))
        await pilot.pause()
        (toast,) = shown(app)
        assert toast._notification.timeout == longest_s
        oom = wire.OomReport(
            rank=0, time_s=1, step=90, where="forward/backward", micro_batch=8, next_micro_batch=4, message=""
        )
        await told(app, pilot, client, oom)
        await pilot.pause()
        assert shown(app) == []  # it has come to pass, and memdash has mended it


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("paused at step 299", "pause: paused at step 299"),
        ("done", "pause: done (step 299)"),
    ],
)
async def test_the_step_is_said_once(text: str, said: str) -> None:
    client = FakeClient(scenes.state())
    app = dashboard_on(client)
    async with app.run_test(size=NARROW) as pilot:
        await told(app, pilot, client, answer(text))
        assert [f"{toast.title}: {toast.message}" for toast in app._notifications] == [said]


@pytest.mark.parametrize("size", [NARROW, WIDE, (40, 12)])
@pytest.mark.parametrize("key", ["b", "s", "question_mark"])
async def test_a_dialog_is_not_covered_and_says_itself_what_went_wrong(key: str, size: tuple[int, int]) -> None:
    client = FakeClient(*LIFE)
    app = dashboard_on(client)
    async with app.run_test(size=size, notifications=True) as pilot:
        await told(app, pilot, client)
        await pilot.press(key)
        await told(app, pilot, client, answer("all is well"))
        await pilot.pause()
        assert shown(app) == []
        await told(app, pilot, client, answer("rank 1 is late", ok=False))
        await told(app, pilot, client, answer("rank 1 is away", ok=False))
        await pilot.pause()
        assert shown(app) == []
        text = "\n".join(screen_text(app))
        assert "rank 1 is late" not in text
        if size[1] >= 24:
            assert "pause: not done: rank 1 is away" in text


async def test_where_there_is_one_line_it_stays() -> None:
    client = FakeClient(*LIFE)
    app = dashboard_on(client)
    async with app.run_test(size=(28, 5), notifications=True) as pilot:
        await told(app, pilot, client, answer("done"))
        await pilot.pause()
        assert screen_text(app)[0].startswith("41%") or "● running" in screen_text(app)[0]
        assert shown(app) == []

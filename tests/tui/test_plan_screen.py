"""`v`: what was estimated before the start, beside what is measured."""

from __future__ import annotations

from memdash import wire
from memdash.tui.board import Board
from memdash.tui.screens.plan import PlanScreen, plan_lines
from memdash.tui.widgets.line_pane import LinePane
from tests.tui import scenes
from tests.tui.conftest import FakeClient, dashboard_on, told

MIB = scenes.MIB


def split(micro_batch: int, worst: int, verdict: str, **over: int) -> wire.PlannedSplit:
    return wire.PlannedSplit(
        micro_batch=micro_batch, worst_bytes=worst * MIB, usual_bytes=worst * MIB // 2, verdict=verdict, **over
    )


PLAN = wire.RunPlan(
    made_s=scenes.T0,
    headline="plan: WILL OOM at step 76",
    micro_batch=8,
    capacity_bytes=512 * MIB,
    source="device.capacity, simulated",
    splits=[split(4, 400, "fits"), split(8, 800, "oom", step=76, example=1475, length=2200)],
    host_bytes=900 * MIB,
    advice=["isolate lowers it"],
)


async def test_the_plan_opens_follows_and_closes() -> None:
    client = FakeClient()
    app = dashboard_on(client)
    async with app.run_test(size=(80, 24)) as pilot:
        await told(app, pilot, client, scenes.state(), PLAN, scenes.host_sample(1, 4.0))
        await pilot.press("v")
        await pilot.pause()
        screen = app.screen
        assert isinstance(screen, PlanScreen)
        pane = screen.query_one(LinePane)
        assert pane.texts[0] == "plan: WILL OOM at step 76"
        assert "estimates of 512 MiB, device.capacity, simulated" in pane.texts
        assert "         8*    400 MiB    800 MiB             WILL OOM at step 76" in pane.texts
        await told(app, pilot, client, scenes.step(2, 413, scenes.device(180, 200, 352)))
        screen.draw()
        assert (
            "         8*    400 MiB    800 MiB    200 MiB  WILL OOM at step 76; 25% of the worst so far" in pane.texts
        )
        assert any(text.startswith("       host") and "900 MiB   1.00 GiB" in text for text in pane.texts)
        assert "isolate lowers it" in pane.texts
        await pilot.press("v")
        await pilot.pause()
        assert not isinstance(app.screen, PlanScreen)


async def test_what_no_step_explains_is_said() -> None:
    client = FakeClient()
    app = dashboard_on(client)
    async with app.run_test(size=(80, 24)) as pilot:
        await told(app, pilot, client, scenes.state(), PLAN, scenes.host_sample(1, 4.0))
        await told(app, pilot, client, scenes.step(2, 413, scenes.device(180, 1300, 352)))
        assert any("far above the plan" in line.text for line in plan_lines(app.board))


def test_without_a_plan_it_says_so() -> None:
    assert [line.text for line in plan_lines(Board())][0].startswith("no plan was made before the start")

"""What a forecast looks like: the banner, the fan and the upright line, the page behind `f`."""

from __future__ import annotations

import msgspec
import pytest

from memdash import wire
from memdash.tui.foresight import ahead, alarm, forecast_lines, what_to_do
from memdash.tui.palette import DANGER, FORECAST, INFO, WARNING
from memdash.tui.plots import Ahead, Line, memory_plot
from memdash.tui.screens.forecast import ForecastScreen
from memdash.tui.series import Track, Window
from memdash.tui.widgets.banner import Banner
from memdash.tui.widgets.line_pane import LinePane
from memdash.tui.widgets.plots_view import PlotsView
from tests.tui import scenes
from tests.tui.conftest import FakeClient, dashboard_on, screen_text, told

MIB = scenes.MIB
TREND = wire.Outlook(
    where="host",
    kind="trend",
    level="critical",
    text="host memory full in 50s-1m19s: +1.50 GiB a minute",
    evidence="floor +2.7 GiB in 1m50s",
    in_low_s=50.0,
    in_s=64.0,
    in_high_s=79.0,
    now_bytes=6000,
    bytes_per_s_low=10.0,
    bytes_per_s=20.0,
    bytes_per_s_high=40.0,
)
MISFIT = wire.Outlook(
    where="device",
    kind="lookahead",
    level="warning",
    text="step 812 in 1m04s will not fit",
    evidence="needs 740 MiB to 765 MiB",
    in_s=64.0,
    need_bytes=744 * MIB,
)


def forecast(*outlooks: wire.Outlook) -> wire.Forecast:
    level = outlooks[0].level if outlooks else "ok"
    return wire.Forecast(time_s=1.0, level=level, headline=outlooks[0].text if outlooks else "", outlooks=[*outlooks])


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (None, ("", "")),
        (forecast(), ("", "")),
        (forecast(TREND, MISFIT), (TREND.text, DANGER)),
        (forecast(MISFIT), (MISFIT.text, WARNING)),
    ],
    ids=["none", "ok", "critical", "warning"],
)
def test_only_what_is_urgent_is_an_alarm(made, expected):
    assert alarm(scenes.state(forecast=made)) == expected
    assert alarm(scenes.state(forecast=made, status="oom")) == ("", "")


def test_each_plot_gets_its_own_future():
    state = scenes.state(forecast=forecast(TREND, MISFIT))
    assert ahead(state, "host") == Ahead(6000.0, (10.0, 20.0, 40.0), None)
    assert ahead(state, "device") == Ahead(0.0, (), (64.0, 744.0 * MIB))
    assert ahead(state, "device", rank=1) is None
    assert ahead(scenes.state(), "host") is None
    assert ahead(scenes.state(forecast=forecast(TREND), status="killed"), "host") is None


def curves_of(future: Ahead, *, past: int = 40, now: int = 30):
    track = Track()
    track.add(0.0, 1000.0)
    view = Window(start=0, width_s=1.0, count=past, origin_s=0.0, settled=now)
    plot = memory_plot((46, 11), view, [Line(track, "#ffffff")], 10_000.0, zoomed=False, ahead=future)
    return [curve.points for curve in plot.curves if curve.colour == FORECAST], plot


def test_the_fan_opens_from_now_up_to_the_capacity():
    (low, likely, high), plot = curves_of(Ahead(6000.0, (10.0, 50.0, 400.0)))
    assert likely[0][0] == 31
    assert {x for x, _ in likely} == set(range(31, 80))
    assert max(y for _, y in low) < max(y for _, y in likely) < max(y for _, y in high)
    assert max(x for x, _ in high) == 39  # where it meets the capacity; its edges are dotted
    assert max(y for _, y in high) < plot.dots[1] - 4  # the top row is the capacity line's


@pytest.mark.parametrize(("in_s", "column"), [(20.0, 50), (0.0, 31), (9999.0, 79)])
def test_a_step_that_does_not_fit_stands_upright(in_s, column):
    ((points), *_), _ = curves_of(Ahead(misfit=(in_s, 99_000.0)))
    assert {x for x, _ in points} == {column}
    assert len(points) == 9 * 4


def test_the_page_says_what_it_rests_on():
    texts = [
        "".join(part for part, _ in line.prefix) + line.text
        for line in forecast_lines(scenes.state(forecast=forecast(TREND, MISFIT)))
    ]
    assert texts[0] == f"critical  {TREND.text}"
    assert texts[1].strip() == "likely in 1m04s; four times in five between 50s and 1m19s"
    assert texts[2].strip() == TREND.evidence
    assert f"warning   {MISFIT.text}" in texts
    assert forecast_lines(scenes.state(forecast=forecast()))[0].text.startswith("ok")
    calm = wire.Forecast(time_s=1.0, level="ok", grounds=["host memory: its floor does not rise"])
    assert forecast_lines(scenes.state(forecast=calm))[-1].text == "host memory: its floor does not rise"
    over = forecast_lines(scenes.state(forecast=forecast(TREND), status="oom"))
    assert over[0].text == "the run is over; what follows was said at its end"
    assert forecast_lines(scenes.state())[0].text == "nothing has been forecast yet"


ALL = {command.__name__: "" for command in wire.COMMANDS}
DEEDS = {
    "a leak": (TREND, {"capabilities": ALL}, "C: full checkpoint, then s: stop"),
    "a leak of a script that saves nothing": (TREND, {"capabilities": {"Stop": ""}}, "s: stop it before it is killed"),
    "a leak to watch": (msgspec.structs.replace(TREND, level="watch"), {"capabilities": ALL}, ""),
    "a step": (
        msgspec.structs.replace(MISFIT, fitting_micro_batch=2),
        {"capabilities": ALL},
        "b: micro-batch 2 before that step, and back after it",
    ),
    "a step that nothing helps": (MISFIT, {"capabilities": ALL}, ""),
    "a step of a script that is not cut": (
        msgspec.structs.replace(MISFIT, fitting_micro_batch=2),
        {"capabilities": {}},
        "",
    ),
    "it is over": (TREND, {"capabilities": ALL, "status": "oom"}, ""),
}


@pytest.mark.parametrize(("outlook", "state", "deed"), DEEDS.values(), ids=DEEDS)
def test_the_page_says_which_keys_help(outlook, state, deed):
    state = scenes.state(forecast=forecast(outlook), **state)
    assert what_to_do(outlook, state) == deed
    assert [line.text for line in forecast_lines(state) if line.colour == INFO] == ([deed] if deed else [])


async def test_it_is_seen_on_the_screen() -> None:
    client = FakeClient()
    app = dashboard_on(client)
    async with app.run_test(size=(80, 24)) as pilot:
        await told(app, pilot, client, scenes.state(), scenes.host_sample(1, 4.0))
        assert app.screen.query_one(Banner).has_class("hidden")
        await told(app, pilot, client, scenes.state(forecast=forecast(TREND, MISFIT)))
        await pilot.pause()
        assert any(f"{TREND.text} · f: why" in line for line in screen_text(app))
        plot = app.screen.query_one(PlotsView).query_one("#plot-host").plot
        assert any(curve.colour == FORECAST for curve in plot.curves)
        await pilot.press("f")
        await pilot.pause()
        assert isinstance(app.screen, ForecastScreen)
        assert any(MISFIT.text in text for text in app.screen.query_one(LinePane).texts)
        await pilot.press("f")
        await told(app, pilot, client, scenes.state(forecast=forecast()))
        assert app.screen.query_one(Banner).has_class("hidden")

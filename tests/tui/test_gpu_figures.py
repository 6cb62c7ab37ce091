"""What the driver says of the run's GPU stands beside the device's figures, and never in the way of them."""

from __future__ import annotations

import pytest

from memdash import wire
from memdash.tui.figures import gpu_text, others_text
from memdash.tui.widgets.figures_view import FiguresView
from memdash.tui.widgets.header import Header
from tests.tui import scenes
from tests.tui.conftest import FakeClient, dashboard_on, screen_text, told

GIB = scenes.GIB
GPU = wire.GpuReading(
    index=3,
    cuda_index=0,
    kind="exact",
    total_bytes=40 * GIB,
    used_bytes=12 * GIB,
    others_bytes=2 * GIB,
    utilization_percent=83,
    temperature_c=61,
    power_w=312.4,
)
MEMORY = scenes.device(180, 301, 352, device="cuda:0", kind="exact")


def running(*gpus: wire.GpuReading, **changes: object) -> list[wire.FromSupervisor]:
    return [
        scenes.state(device="cuda:0", memory=MEMORY, gpus=list(gpus), **changes),
        scenes.step(1, 1, MEMORY),
        scenes.host_sample(1, 4.0),
    ]


@pytest.mark.parametrize(
    ("gpu", "text"),
    [
        (GPU, "83% 61°C 312 W"),
        (wire.GpuReading(index=0, kind="exact", temperature_c=61), "61°C"),
        (wire.GpuReading(index=0, kind="exact"), ""),
        (wire.GpuReading(index=0, kind="unavailable", reason="the driver has lost this GPU"), "GPU n/a"),
    ],
)
def test_what_is_not_known_is_left_out(gpu: wire.GpuReading, text: str) -> None:
    assert gpu_text(gpu) == text


def test_others_are_named_only_where_there_are_some() -> None:
    assert others_text(GPU) == "others 2.00 GiB"
    assert others_text(wire.GpuReading(index=0, kind="exact", others_bytes=0)) == ""
    assert others_text(wire.GpuReading(index=0, kind="exact", others_bytes=None)) == ""


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_it_is_shown_in_the_header(size: tuple[int, int]) -> None:
    client = FakeClient()
    app = dashboard_on(client)
    async with app.run_test(size=size) as pilot:
        await told(app, pilot, client, *running(GPU))
        assert "cuda:0  83% 61°C 312 W  others 2.00 GiB  2m00s" in app.screen.query_one(Header).text


async def test_where_there_is_room_it_is_beside_the_devices_memory() -> None:
    client = FakeClient()
    app = dashboard_on(client)
    async with app.run_test(size=(140, 40)) as pilot:
        await told(app, pilot, client, *running(GPU))
        assert "211 MiB  others 2.00 GiB" in app.screen.query_one(FiguresView).text
        await pilot.press("1")
        await told(app, pilot, client)
        assert any("capacity 512 MiB  others 2.00 GiB" in line for line in screen_text(app))


async def test_a_lost_gpu_says_so_and_other_gpus_and_runs_that_are_over_say_nothing() -> None:
    client = FakeClient()
    app = dashboard_on(client)
    async with app.run_test(size=(120, 40)) as pilot:
        header = app.screen.query_one(Header)
        await told(app, pilot, client, *running(wire.GpuReading(index=3, cuda_index=0, kind="unavailable")))
        assert "cuda:0  GPU n/a" in header.text
        await told(app, pilot, client, *running(wire.GpuReading(index=1, cuda_index=1, kind="exact", temperature_c=99)))
        assert "99" not in header.text
        await told(app, pilot, client, *running(GPU, status="finished", ended_s=scenes.T0 + 100))
        assert "61°C" not in header.text

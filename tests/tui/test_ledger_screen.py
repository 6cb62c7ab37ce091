"""`l`: the rows of both memories, kept up to date, with the driver's view of the right GPU."""

from __future__ import annotations

from memdash import wire
from memdash.tui.board import Board
from memdash.tui.screens.ledger import LedgerScreen, ledger_lines
from memdash.tui.widgets.line_pane import LinePane
from tests.tui import scenes
from tests.tui.conftest import FakeClient, dashboard_on, told

MIB = scenes.MIB


def memory(allocated: float) -> wire.DeviceMemory:
    return scenes.device(allocated, allocated, 352, total_bytes=512 * MIB, free_bytes=160 * MIB)


async def test_the_ledger_opens_follows_and_closes() -> None:
    client = FakeClient()
    app = dashboard_on(client)
    async with app.run_test(size=(80, 24)) as pilot:
        await told(app, pilot, client, scenes.state(memory=memory(180)), scenes.host_sample(1, 4.0))
        await pilot.press("l")
        await pilot.pause()
        screen = app.screen
        assert isinstance(screen, LedgerScreen)
        pane = screen.query_one(LinePane)
        assert pane.texts[0] == "simulated: 512 MiB  by device.capacity"
        assert any("tensors" in text and "180 MiB" in text and "35%" in text for text in pane.texts)
        assert any("this run" in text and "1.00 GiB" in text for text in pane.texts)
        await told(app, pilot, client, scenes.step(2, 413, memory(200)))
        screen.draw()
        assert any("tensors" in text and "200 MiB" in text for text in pane.texts)
        await pilot.press("l")
        await pilot.pause()
        assert not isinstance(app.screen, LedgerScreen)


def test_without_figures_it_says_why() -> None:
    board = Board()
    board.take(scenes.state(memory=wire.DeviceMemory(device="cpu", kind="unavailable", reason="plain CPU")))
    texts = [line.text for line in ledger_lines(board)]
    assert texts[:2] == ["device: n/a", "  plain CPU"]
    assert "host: n/a" in texts


def test_the_drivers_reading_is_that_of_the_same_device() -> None:
    gpus = [wire.GpuReading(index=3, cuda_index=0, kind="exact"), wire.GpuReading(index=1, cuda_index=1, kind="exact")]
    board = Board()
    board.take(scenes.state(gpus=gpus, memory=wire.DeviceMemory(device="cuda:1", kind="exact")))
    assert board.gpu() is gpus[1]
    board.take(scenes.state(gpus=gpus, memory=wire.DeviceMemory(device="cuda:2", kind="exact")))
    assert board.gpu() is None

"""What the dashboard looks like; `pytest tests/tui/test_snapshots.py --snapshot-update` after looking at the change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pytest

from memdash import wire
from tests.tui import scenes
from tests.tui.conftest import FakeClient, dashboard_on, until

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from memdash.tui.app import Dashboard, DashboardExit

LIFE = scenes.life()
ENDED = scenes.state(
    status="oom", ended_s=scenes.T0 + 120, exit_code=12, status_reason="4 recoveries did not help", linked=False
)
PLAYBACK = wire.Playback(
    time_s=scenes.T0 + 100,
    start_s=scenes.T0,
    end_s=scenes.T0 + 400,
    speed=5.0,
    playing=True,
    marks=[
        wire.Mark(time_s=scenes.T0 + 31, level="warning"),
        wire.Mark(time_s=scenes.T0 + 250, level="warning"),
        wire.Mark(time_s=scenes.T0 + 399, level="error"),
    ],
)


class SnapCompare(Protocol):
    """pytest-textual-snapshot's fixture."""

    def __call__(self, app: Dashboard, *, terminal_size: tuple[int, int], run_before: object) -> bool: ...


@pytest.mark.parametrize(
    ("size", "says", "keys"),
    [
        ((80, 24), LIFE, []),
        ((120, 40), LIFE, []),
        ((120, 40), LIFE, ["b", "up"]),
        ((80, 24), [*LIFE, ENDED], []),
        ((80, 24), [*LIFE, PLAYBACK], []),
    ],
    ids=["80x24", "120x40", "120x40-split", "80x24-out-of-memory", "80x24-recording"],
)
def test_picture(
    size: tuple[int, int], says: list[wire.FromSupervisor], keys: list[str], snap_compare: SnapCompare
) -> None:
    client = FakeClient(*says)
    app = dashboard_on(client)

    async def run_before(pilot: Pilot[DashboardExit]) -> None:
        await until(lambda: app.board.state and client._queue.empty() and not app.link.inbox)
        await pilot.pause()
        await pilot.press(*keys)
        app.draw()
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=run_before)

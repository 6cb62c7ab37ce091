"""The guard's deeds: one that was refused is tried again soon, one that was done is not done again."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from memdash import wire
from memdash.config import GuardSection
from memdash.store.run_directory import RunDirectory
from memdash.supervisor.events import ForecastMade
from memdash.supervisor.forecasting import Forecasting
from memdash.supervisor.guard import RETRY_S, Guard
from tests.supervisor.test_control import Desk

MISFIT = wire.Outlook(
    where="device", kind="lookahead", level="warning", text="step 812 will not fit", step=812, fitting_micro_batch=2
)


class Watch:
    """A guard at a desk, asked at moments of a clock; every look has a forecast of its own."""

    def __init__(self, folder: Path) -> None:
        (folder / "samples").mkdir()
        (folder / "checkpoints").mkdir()
        self.desk = Desk(RunDirectory(folder))
        self.forecasting = Forecasting(self.desk.telemetry, 0.0, self.desk.directory)
        rules = GuardSection(mode="protect")
        self.guard = Guard(self.desk.telemetry, self.desk.control, self.forecasting, rules)

    def look(self, now_s: float, **state: object) -> list[int]:
        """The micro-batches that were asked for at that moment."""
        before = len(self.desk.sent)
        telemetry = self.desk.telemetry
        telemetry.state = msgspec.structs.replace(telemetry.state, **state)
        telemetry.advance(ForecastMade(wire.Forecast(time_s=now_s, level="warning", outlooks=[MISFIT])))
        self.guard.tick(now_s)
        return [command.micro_batch for command in self.desk.sent[before:] if isinstance(command, wire.CapStep)]

    def ack(self, rank: int) -> None:
        self.desk.ack(self.desk.sent[-1].command_id, rank, result="so be it")


@pytest.fixture
def watch(tmp_path):
    return Watch(tmp_path)


def test_what_was_refused_is_tried_again_soon(watch):
    assert watch.look(1000.0, linked=False) == []
    assert watch.look(1000.0 + RETRY_S / 2, linked=True) == []
    assert watch.look(1000.0 + RETRY_S) == [2]


def test_what_was_done_is_known_to_the_forecast_and_not_done_again(watch):
    assert watch.look(1000.0) == [2]
    watch.ack(0)
    watch.ack(1)
    assert watch.forecasting.forecaster.caps == {812: 2}
    assert watch.look(1000.0 + RETRY_S) == []
    assert watch.look(1100.0, step=1) == [2]  # back to a checkpoint: that step comes again

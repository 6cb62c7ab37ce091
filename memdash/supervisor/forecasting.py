"""Asks the forecast once a second, shows what it says, and writes every change of level into the journal."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from memdash import wire
from memdash.forecast.forecaster import Forecaster
from memdash.store.replay import of_device, recorded_lately
from memdash.store.run_directory import RunDirectory
from memdash.supervisor.events import ForecastMade
from memdash.supervisor.run_state import is_final
from memdash.supervisor.telemetry import Telemetry

EVERY_S = 1.0
CAUGHT_UP_ROWS = 4096  # of each source: half an hour of host samples, read in a tenth of a second
LEVELS: dict[wire.Risk, wire.Level] = {"ok": "good", "watch": "info", "warning": "warning", "critical": "error"}


class Forecasting:
    """Starts anew with every attempt: another process has another floor."""

    def __init__(self, telemetry: Telemetry, wall_s: float, directory: RunDirectory) -> None:
        self._telemetry = telemetry
        self._directory = directory
        self._wall_s = wall_s
        self._attempt = telemetry.state.attempt
        self._due_s = 0.0
        self.forecaster = Forecaster(wall_s)
        telemetry.listeners.append(self.take)

    def take(self, message: wire.Message) -> None:
        """What a rank or the host reports."""
        state = self._telemetry.state
        if state.attempt != self._attempt:
            self._attempt = state.attempt
            self.forecaster = Forecaster(self._wall_s)
        if isinstance(message, wire.StepReport):
            self.forecaster.step(message, state)
        elif isinstance(message, wire.HostSample):
            self.forecaster.host(message, state)
        elif isinstance(message, wire.ComingGroups):
            self.forecaster.coming(message)
        elif isinstance(message, wire.CheckpointSaved):
            self.forecaster.saved(message)

    def catch_up(self) -> None:
        """What the supervisor before has recorded of an attempt that goes on."""
        state = msgspec.structs.replace(self._telemetry.state, phase="training", paused_since_s=None)
        for recorded in recorded_lately(self._directory, state.attempt, CAUGHT_UP_ROWS):
            message = of_device(recorded, state.memory)
            if isinstance(message, wire.HostSample):
                self.forecaster.host(message, state)
            else:
                self.forecaster.step(message, msgspec.structs.replace(state, step=message.step))

    def tick(self, now_s: float) -> None:
        """`now_s` is Unix time, as run states have it."""
        state = self._telemetry.state
        is_due = not self._due_s - EVERY_S <= now_s < self._due_s  # nor is it later when the clock was put back
        if is_final(state) or not is_due:
            return
        self._due_s = now_s + EVERY_S
        forecast = self.forecaster.forecast(state, now_s, _free_bytes(self._directory.checkpoints))
        before = state.forecast.level if state.forecast else "ok"
        self._telemetry.advance(ForecastMade(forecast))
        if forecast.level == before:
            return
        if forecast.level == "ok":
            self._telemetry.journal("good", "forecast", "ok again: nothing that memory is heading for is in sight")
            return
        evidence = forecast.outlooks[0].evidence
        text = f"{forecast.level}: {forecast.headline}" + (f" ({evidence})" if evidence else "")
        self._telemetry.journal(LEVELS[forecast.level], "forecast", text)


def _free_bytes(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None

"""Acts on the forecast when the config says `guard.mode = "protect"`; every deed is a command like anybody's, and journaled."""

from __future__ import annotations

from memdash import wire
from memdash.client import new_command_id
from memdash.config import GuardSection
from memdash.supervisor.control import Control, describe
from memdash.supervisor.events import StopDecided
from memdash.supervisor.forecasting import Forecasting
from memdash.supervisor.guarding import Measure, command, measures
from memdash.supervisor.telemetry import Telemetry
from memdash.units import parse_duration

RETRY_S = 10.0
"""What was refused is tried again then, and not after a whole cooldown."""


class Guard:
    """Looks at the newest forecast on every beat."""

    def __init__(self, telemetry: Telemetry, control: Control, forecasting: Forecasting, rules: GuardSection) -> None:
        self._telemetry = telemetry
        self._control = control
        self._forecasting = forecasting
        self._rules = rules
        self._cooldown_s = parse_duration(rules.cooldown)
        self._done: dict[str, float] = {}
        self._seen: wire.Forecast | None = None
        self._attempt = telemetry.state.attempt
        self._step = 0

    def tick(self, now_s: float) -> None:
        """`now_s` is monotonic."""
        state = self._telemetry.state
        if state.attempt != self._attempt or state.step < self._step:  # what was done was done to other steps
            self._attempt, self._done = state.attempt, {}
        self._step = state.step
        forecast = state.forecast
        if forecast is None or forecast is self._seen:
            return
        self._seen = forecast
        for measure in measures(forecast, state, self._rules, self._done, now_s, self._cooldown_s):
            self._done[measure.key] = now_s
            self._do(measure, now_s)

    def _do(self, measure: Measure, now_s: float) -> None:
        deed = command(measure, new_command_id())
        what = describe(deed, self._telemetry.state)
        would = "would have done" if self._rules.dry_run else "does"
        self._telemetry.journal("warning", "guard", f"the guard {would}: {what}; because {measure.why}")
        if self._rules.dry_run:
            return
        forecaster = self._forecasting.forecaster

        def answered(result: wire.CommandResult) -> None:
            if not result.ok:
                self._done[measure.key] = now_s + RETRY_S - self._cooldown_s
            elif measure.deed == "cap":
                asked = forecaster.caps.get(measure.step, measure.micro_batch)
                forecaster.caps[measure.step] = min(asked, measure.micro_batch)

        if measure.deed == "stop":
            self._telemetry.advance(StopDecided(f"by the guard, before memory ran out: {measure.why}"))
        self._control.submit(deed, answered, now_s, "guard")

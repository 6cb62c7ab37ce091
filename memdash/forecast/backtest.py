"""What the forecast would have said of a recorded run, second by second, and when each alert would have come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from memdash.forecast.forecaster import Forecaster
from memdash.wire import (
    FINAL_STATUSES,
    ComingGroups,
    Forecast,
    HostSample,
    Message,
    Outlook,
    Risk,
    RunState,
    StepReport,
)

EVERY_S = 1.0


@dataclass(frozen=True)
class Said:
    """One forecast."""

    state: RunState
    """Of the run, at that moment."""
    forecast: Forecast


@dataclass(frozen=True)
class Alert:
    """A change of the forecast's level, as the journal of a live run has it."""

    time_s: float
    attempt: int
    step: int
    level: Risk
    headline: str
    outlook: Outlook | None
    """The most urgent one; None when all is well again."""


def replay(
    recorded: Iterable[tuple[Message, RunState]], wall_s: float = 0.0, every_s: float = EVERY_S
) -> Iterator[Said]:
    """Feed what was recorded, each message with the state after it, and ask as often as a supervisor does.

    The times of the messages must not fall. A new attempt is forecast anew.
    """
    forecaster, attempt, due_s = Forecaster(wall_s), 0, 0.0
    for message, state in recorded:
        if state.attempt != attempt:
            forecaster, attempt = Forecaster(wall_s), state.attempt
        if isinstance(message, StepReport):
            forecaster.step(message, state)
        elif isinstance(message, HostSample):
            forecaster.host(message, state)
        elif isinstance(message, ComingGroups):
            forecaster.coming(message)
        time_s = getattr(message, "time_s", 0.0)
        if time_s >= due_s and state.status not in FINAL_STATUSES:
            due_s = max(due_s + every_s, time_s)
            yield Said(state, forecaster.forecast(state, time_s))


def alerts(said: Iterable[Said]) -> list[Alert]:
    """Where the level changed."""
    changes: list[Alert] = []
    level: Risk = "ok"
    for each in said:
        forecast = each.forecast
        if forecast.level == level:
            continue
        level = forecast.level
        first = forecast.outlooks[0] if forecast.outlooks else None
        changes.append(Alert(forecast.time_s, each.state.attempt, each.state.step, level, forecast.headline, first))
    return changes

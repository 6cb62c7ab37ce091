"""Ends an attempt in time: before its wall budget is over, after a full checkpoint."""

from __future__ import annotations

from memdash import wire
from memdash.client import new_command_id
from memdash.supervisor.control import Control
from memdash.supervisor.events import WallBudgetSpent
from memdash.supervisor.policy import wall_budget
from memdash.supervisor.telemetry import Telemetry
from memdash.units import format_duration

ASK_AGAIN_S = 10.0  # when the checkpoint could not be saved and the run was therefore not stopped


class WallBudget:
    """Looks at the clock on every beat."""

    def __init__(self, telemetry: Telemetry, control: Control, wall_s: float) -> None:
        self._telemetry = telemetry
        self._control = control
        self._wall_s = wall_s
        self._warned_attempt = -1
        self._asked_s = float("-inf")

    def tick(self, now_s: float, time_s: float) -> None:
        """`now_s` is monotonic, `time_s` Unix time, as run states have it."""
        state = self._telemetry.state
        verdict = wall_budget(state, time_s, self._wall_s)
        if verdict == "short" and self._warned_attempt != state.attempt:
            self._warned_attempt = state.attempt
            eta, wall = format_duration(state.eta_s), format_duration(self._wall_s)
            text = f"this attempt will not finish in its wall budget of {wall}: {eta} of training are left"
            self._telemetry.journal("warning", "budget", f"{text}; it will be stopped in time, after a full checkpoint")
        elif verdict == "stop" and now_s - self._asked_s >= ASK_AGAIN_S:
            self._asked_s = now_s
            wall = format_duration(self._wall_s)
            self._telemetry.journal("warning", "budget", f"the wall budget of {wall} is used up")
            self._telemetry.advance(WallBudgetSpent())
            stop = wire.Stop(command_id=new_command_id(), save="full")
            self._control.submit(stop, lambda result: None, now_s, "wall budget")

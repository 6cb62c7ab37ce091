"""What the guard does about a forecast (pure): which command, why, and whether it is time for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memdash import wire
from memdash.config import GuardSection


@dataclass(frozen=True)
class Measure:
    """Something to do."""

    key: str
    """What it is about; not done again for the same before the cooldown is over."""
    deed: Literal["cap", "light", "full", "pause", "stop"]
    why: str
    step: int = 0
    micro_batch: int = 0


def measures(
    forecast: wire.Forecast,
    state: wire.RunState,
    rules: GuardSection,
    done: dict[str, float],
    now_s: float,
    cooldown_s: float,
) -> list[Measure]:
    """What there is to do now; `done` tells when each key was last acted upon, `now_s` is of the same clock.

    A step that will not fit, or may not, is capped: that costs nothing but a few more slices of one step. A memory that
    fills up is answered by what the config names for its level.
    """
    if rules.mode != "protect" or state.status not in ("running", "starting"):
        return []
    wanted = [measure for each in forecast.outlooks if (measure := _measure(each, state, rules))]
    return [each for each in wanted if now_s - done.get(each.key, float("-inf")) >= cooldown_s]


def _measure(outlook: wire.Outlook, state: wire.RunState, rules: GuardSection) -> Measure | None:
    if outlook.kind == "lookahead" and outlook.step is not None:
        micro_batch = outlook.fitting_micro_batch or 1
        key = f"step {outlook.step} at {micro_batch}"
        if micro_batch >= state.micro_batch or state.capabilities.get("CapStep") != "":
            return None
        return Measure(key, "cap", outlook.text, outlook.step, micro_batch)
    if outlook.kind not in ("trend", "segment"):
        return None
    deed = {"warning": rules.on_warning, "critical": rules.on_critical}.get(outlook.level, "notify")
    if deed == "notify":
        return None
    return Measure(f"{outlook.where} {outlook.rank} {outlook.level}", deed, outlook.text)


def command(measure: Measure, command_id: str) -> wire.Command:
    """The command that does it."""
    match measure.deed:
        case "cap":
            return wire.CapStep(command_id=command_id, step=measure.step, micro_batch=measure.micro_batch)
        case "light" | "full":
            return wire.SaveCheckpoint(command_id=command_id, kind=measure.deed, reason="guard")
        case "pause":
            return wire.Pause(command_id=command_id)
        case "stop":
            return wire.Stop(command_id=command_id, save="full")

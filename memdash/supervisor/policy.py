"""What is done when an attempt has failed (pure): another attempt, smaller where memory was the killer, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memdash import wire
from memdash.batching import next_smaller

STABLE_S = 60.0  # an attempt that dies sooner and without progress has a fault that another attempt will meet again


SAVE_MARGIN_S = 20.0  # for a full checkpoint, as long as none has been timed
UNTIMED_PART = 0.25  # of the budget, that a save which was never timed may keep back
SLACK = 2.0  # a save on a busy disk takes this many times the longest one seen
SURE_AFTER_STEPS = 20  # before that, the pace of a run says little about its end


@dataclass(frozen=True)
class Restart:
    """One more attempt."""

    micro_batch: int | None
    """Smaller than before; None = as it was."""
    why: str
    """For the journal."""


@dataclass(frozen=True)
class GiveUp:
    """The run is over."""

    why: str
    """For the journal; empty when there is nothing to say."""


def after_failure(state: wire.RunState, *, restarts: int, allowed: int) -> Restart | GiveUp:
    """What follows an attempt that has ended: at most `allowed` restarts in all, `restarts` of which are used.

    It can never loop: the number is of the whole run, and an attempt that dies young without a step is the last.
    """
    if state.status not in ("failed", "oom", "killed") or not allowed:
        return GiveUp("")
    if restarts >= allowed:
        return GiveUp(f"not restarted: {restarts} of {allowed} restarts are used")
    lived_s = (state.ended_s or 0.0) - (state.started_s or 0.0)
    if state.step <= state.start_step and lived_s < STABLE_S:
        return GiveUp(f"not restarted: the attempt died after {lived_s:.0f} s without a step")
    count = f"restart {restarts + 1} of {allowed}"
    of_memory = state.status == "oom" or state.oom_killed
    if not of_memory or state.worker_killed:  # a DataLoader worker's memory is not the micro-batch's
        return Restart(None, f"{count} after: {state.status_reason}")
    if whole := state.capabilities.get("SetBatchSplit"):
        return GiveUp(f"not restarted: memory ran out, and the step cannot be cut smaller: {whole}")
    group = state.global_batch // max(1, state.world_size)
    smaller = next_smaller(group, state.micro_batch) if state.micro_batch else None
    if smaller is None:
        return GiveUp(f"not restarted: memory ran out at micro-batch {state.micro_batch}, and there is no smaller one")
    return Restart(smaller, f"{count}, memory ran out: micro-batch {state.micro_batch} -> {smaller}")


def wall_budget(state: wire.RunState, now_s: float, wall_s: float) -> Literal["enough", "short", "stop"]:
    """Whether an attempt fits its wall budget: `short` when it will not finish in it, `stop` when saving must begin.

    Time spent paused does not count, but while paused the run is not stopped either: nothing of it would be lost.
    """
    if not wall_s or state.started_s is None or state.status not in ("starting", "running"):
        return "enough"
    left_s = wall_s - wire.attempt_s(state, now_s)
    save_s = (
        min(SAVE_MARGIN_S, UNTIMED_PART * wall_s)
        if state.longest_save_s is None
        else max(1.0, SLACK * state.longest_save_s)
    )
    step_s = state.step_time_s or 0.0
    if left_s <= save_s + 2 * step_s:  # a command waits for the end of a step, and that may have just begun
        return "stop"
    steps = state.step - state.start_step
    return "short" if steps >= SURE_AFTER_STEPS and state.eta_s is not None and state.eta_s > left_s else "enough"

"""What each question found where there is nothing to warn of: a line each, for whoever wants to know why all is well."""

from __future__ import annotations

from memdash.forecast.lookahead import Coming
from memdash.forecast.outlooks import of_capacity
from memdash.forecast.peak import Estimate
from memdash.units import format_bytes, format_duration
from memdash.wire import DeviceMemory, Outlook


def of_trend(name: str, outlook: Outlook | None, seen_s: float, least_s: float) -> str:
    """Of one memory's floor; an outlook of level `ok` is growth that is not believed, or not yet."""
    if outlook is not None:
        return f"{outlook.text}; too far away, or seen for too short a time, to warn of"
    if seen_s < least_s:
        return f"{name} memory: too little seen to tell growth from a start; {format_duration(least_s)} are needed"
    return f"{name} memory: its floor does not rise"


def of_steps_to_come(last: Coming | None, through_step: int, need: Estimate | None, memory: DeviceMemory | None) -> str:
    """Of `last`, the longest of the examples to come, and what it needs on top of what is there; None where not known."""
    if not through_step:
        return "steps to come: the script tells no lengths, or all are alike: the peaks to come are those that were"
    if last is None:
        return f"steps to come: the longest up to step {through_step:,} has been trained, or is cut smaller anyway"
    whose = f"the longest, in step {last.step:,}, is example {last.example:,} of length {last.longest:,}"
    if need is None:
        return f"steps to come, to step {through_step:,}: {whose}; too few different lengths seen to say what it needs"
    floor_bytes = (memory.allocated_bytes or 0) if memory else 0
    low, high = (format_bytes(round(floor_bytes + each)) for each in (need.low_bytes, need.high_bytes))
    return f"steps to come, to step {through_step:,}: {whose}: needs {low} to {high} {of_capacity(memory)}"


def of_disk(size_bytes: int, free_bytes: int) -> str:
    """Of the next full checkpoint."""
    return f"disk: a full checkpoint takes {format_bytes(size_bytes)}, {format_bytes(free_bytes)} are free"


def of_time(eta_s: float, left_s: float) -> str:
    """Of the wall budget."""
    return f"wall budget: the run ends in {format_duration(eta_s)}, the budget in {format_duration(left_s)}"

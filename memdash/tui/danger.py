"""When memory is short enough to say so, and what to do about it (pure)."""

from __future__ import annotations

from enum import IntEnum

from memdash import wire
from memdash.units import format_bytes, format_percent

LOW_BELOW, LOW_AGAIN_ABOVE = 0.10, 0.12
CRITICAL_BELOW, CRITICAL_AGAIN_ABOVE = 0.05, 0.07


class Danger(IntEnum):
    """How near the end of memory is."""

    NONE = 0
    LOW = 1
    """Headroom under 10 % of capacity: orange."""
    CRITICAL = 2
    """Headroom under 5 % of capacity: red."""


def headroom_fraction(headroom_bytes: int | None, capacity_bytes: int | None) -> float | None:
    """Headroom as a part of capacity; None when either is unknown."""
    if headroom_bytes is None or not capacity_bytes:
        return None
    return headroom_bytes / capacity_bytes


def danger(before: Danger, fraction: float | None) -> Danger:
    """The level now; it is left only a little above where it is entered, so that a saw-tooth does not flicker."""
    if fraction is None:
        return Danger.NONE
    if fraction < (CRITICAL_AGAIN_ABOVE if before == Danger.CRITICAL else CRITICAL_BELOW):
        return Danger.CRITICAL
    if fraction < (LOW_AGAIN_ABOVE if before >= Danger.LOW else LOW_BELOW):
        return Danger.LOW
    return Danger.NONE


def warning(where: str, headroom_bytes: int, capacity_bytes: int, state: wire.RunState | None) -> str:
    """Which memory is short, by how much, and the key that helps."""
    left = f"{format_bytes(headroom_bytes)} of {format_bytes(capacity_bytes)} left"
    percent = format_percent(headroom_bytes / capacity_bytes)
    return f"{where} headroom {percent}: {left}\n{_advice(where, state)}"


def _advice(where: str, state: wire.RunState | None) -> str:
    can_split = state is not None and state.capabilities.get("SetBatchSplit") == "" and state.micro_batch > 1
    smaller = "b: smaller micro-batch"
    save = "C: full checkpoint"
    if where == "host":  # the kernel kills without warning, so what was learnt is saved first
        return f"{save} before the kernel kills it" + (f" · {smaller}" if can_split else "")
    return smaller if can_split else f"{save}, then s: stop"

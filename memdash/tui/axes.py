"""Where the ticks of an axis stand and what they say (pure)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from memdash.units import GIB, KIB, MIB

_TIME_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)


@dataclass(frozen=True)
class Axis:
    """The values at the two ends, and the ticks between them."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


def byte_unit(largest: float) -> tuple[str, int]:
    """The unit in which a memory plot is labelled."""
    for name, size in (("G", GIB), ("M", MIB)):
        if largest >= size:
            return name, size
    return "K", KIB


def byte_axis(low: float, high: float, rows: int, capacity: float | None = None) -> Axis:
    """Powers of two of one unit; with a capacity, that is the top and has a tick of its own."""
    unit, size = byte_unit(high)
    step = _binary_step((high - low) / max(1, _room(rows)))
    if capacity is None:
        low, high = _rounded(low, high, step)
    clear = (high - low) / max(1, rows) * 1.5  # a tick this near the capacity would collide with it
    values = _multiples(step, low, high)
    ticks = [
        (value, _bytes(value, size, unit)) for value in values if capacity is None or abs(value - capacity) > clear
    ]
    if capacity is not None:
        ticks.append((capacity, _bytes(capacity, size, unit)))
    return Axis(low, high, tuple(ticks))


def number_axis(low: float, high: float, rows: int) -> Axis:
    """Steps of 1, 2 or 5."""
    if high - low <= abs(high) * 1e-3:  # one value alone stands in the middle
        low, high = low - (abs(low) * 0.1 or 1.0), high + (abs(high) * 0.1 or 1.0)
    step = _decimal_step((high - low) / max(1, _room(rows)))
    low, high = _rounded(low, high, step)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    largest = max(abs(low), abs(high))
    return Axis(low, high, tuple((value, _number(value, decimals, largest)) for value in _multiples(step, low, high)))


def time_ticks(start_s: float, end_s: float, columns: int, label_width: int = 11) -> tuple[tuple[float, str], ...]:
    """Round elapsed times in `[start_s, end_s)`, far enough apart to be read."""
    wanted = (end_s - start_s) * label_width / max(1, columns)
    step = next((step for step in _TIME_STEPS_S if step >= wanted), math.ceil(wanted / 86400) * 86400)
    first = max(0, math.ceil(start_s / step - 1e-9))
    return tuple((index * step, elapsed(index * step)) for index in range(first, math.ceil(end_s / step)))


def elapsed(seconds: float) -> str:
    """90 -> `1m30`; 7200 -> `2h`: a tick's label."""
    whole = round(seconds)
    days, hours, minutes, rest = whole // 86400, whole // 3600 % 24, whole // 60 % 60, whole % 60
    if days:
        return f"{days}d{hours:02d}h" if hours else f"{days}d"
    if whole >= 3600:
        return f"{whole // 3600}h{minutes:02d}" if minutes else f"{whole // 3600}h"
    if minutes:
        return f"{minutes}m{rest:02d}" if rest else f"{minutes}m"
    return f"{rest}s" if rest else "0"


def _room(rows: int) -> int:
    """How many steps fit: a tick on every second or third row at most, and never fewer than two."""
    return min(8, max(2, rows // 2 if rows < 12 else rows // 3))


def _rounded(low: float, high: float, step: float) -> tuple[float, float]:
    """Outwards to a quarter of a step, so that the ends move seldom and little room is left empty."""
    quarter = step / 4
    low, high = math.floor(low / quarter + 1e-9) * quarter, math.ceil(high / quarter - 1e-9) * quarter
    return low, max(high, low + step)


def _multiples(step: float, low: float, high: float) -> list[float]:
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _binary_step(smallest: float) -> float:
    return float(2 ** math.ceil(math.log2(max(smallest, 1.0)) - 1e-9))


def _decimal_step(smallest: float) -> float:
    power = 10.0 ** math.floor(math.log10(smallest))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= smallest * (1 - 1e-9))


def _bytes(value: float, size: int, unit: str) -> str:
    """`512M`, `7.6G`: as short as a narrow plot needs it; the G is a GiB."""
    count = value / size
    return f"{count:.0f}{unit}" if count >= 100 else f"{count:.3g}{unit}" if value else "0"


def _number(value: float, decimals: int, largest: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if largest >= size * 10:
            return f"{value / size:.3g}{unit}" if value else "0"
    return f"{value:.{min(decimals, 4)}f}"

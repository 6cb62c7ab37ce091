"""Bytes, percentages and durations as people write and read them."""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_BYTE_UNITS = {
    "": 1, "b": 1,
    "k": KIB, "kb": 1000, "kib": KIB,
    "m": MIB, "mb": 1000**2, "mib": MIB,
    "g": GIB, "gb": 1000**3, "gib": GIB,
    "t": 1024 * GIB, "tb": 1000**4, "tib": 1024 * GIB,
}  # fmt: skip
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def parse_bytes(text: str) -> int:
    """`"1.5GiB"` -> 1610612736; GB is 1000³, GiB and G are 1024³. Raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match[2].lower() not in _BYTE_UNITS:
        raise ValueError(f"{text!r} is not a size; write it like 512MiB, 1.5GiB or 20GB")
    return round(float(match[1]) * _BYTE_UNITS[match[2].lower()])


def format_bytes(count: int | None, *, digits: int = 3) -> str:
    """1610612736 -> `"1.50 GiB"`; None -> `"n/a"`."""
    if count is None:
        return "n/a"
    size, sign = float(abs(count)), "-" if count < 0 else ""
    units = ["TiB", "GiB", "MiB", "KiB", "B"]
    while size >= 1000 and len(units) > 1:
        size /= 1024
        units.pop()
    unit = units[-1]
    if unit == "B":
        return f"{sign}{int(size)} B"
    whole = len(str(int(size)))
    return f"{sign}{size:.{max(0, digits - whole)}f} {unit}"


def parse_duration(text: str) -> float:
    """`"8h50m"` -> 31800.0 seconds. Raises ValueError."""
    rest = text.strip().lower().replace(" ", "")
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|min|s|m|h|d)", rest)
    if not parts or "".join(number + unit for number, unit in parts) != rest:
        raise ValueError(f"{text!r} is not a duration; write it like 90s, 10m or 8h50m")
    return sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)


def format_duration(seconds: float | None) -> str:
    """31800.0 -> `"8h50m"`; 0.25 -> `"250ms"`; None -> `"n/a"`."""
    if seconds is None:
        return "n/a"
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 10:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def format_clock(attempt_s: float, past_s: float) -> str:
    """What an attempt took and, after others, what all of them took: `"12m05s"`, `"12m05s, 1h40m in all"`."""
    in_all = f", {format_duration(past_s + attempt_s)} in all" if past_s else ""
    return format_duration(attempt_s) + in_all


def format_percent(fraction: float | None) -> str:
    """0.934 -> `"93%"`; None -> `"n/a"`."""
    return "n/a" if fraction is None else f"{fraction * 100:.0f}%"


def format_count(number: float | None) -> str:
    """22_713_216 -> `"22.7M"`; None -> `"n/a"`."""
    if number is None:
        return "n/a"
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            return f"{number / (1e3 if unit == 'k' else size):.1f}{unit}"
    return f"{number:,.0f}" if abs(number) >= 100 or number == int(number) else f"{number:.1f}"

"""What a driver says of a GPU, without what cannot be (pure): 2**64-1 for "not available", more used than there is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from memdash.units import format_bytes
from memdash.wire import GpuProcess

MOST_BYTES = 1 << 50
HOTTEST_C, MOST_WATTS = 200, 10_000
MAX_PROCESSES = 32  # listed of each GPU; all are counted

Figures = dict[str, int | float | None]
"""By the field of GpuReading."""


@dataclass(frozen=True)
class Processes:
    """Who uses a GPU; None where that cannot be told."""

    largest: tuple[GpuProcess, ...] = ()
    count: int | None = None
    own_bytes: int | None = None
    others_bytes: int | None = None
    reason: str = ""
    """Why something is missing."""


def memory_figures(total: int, used: int, free: int, reserved: int | None) -> tuple[Figures, list[str]]:
    """The memory of a device, and words for what was left out."""
    most = total if 0 < total <= MOST_BYTES else 0
    figures: Figures = {
        "total_bytes": most or None,
        "used_bytes": _up_to(used, most),
        "free_bytes": _up_to(free, most),
        "reserved_bytes": None if reserved is None else _up_to(reserved, most),
    }
    if None not in (figures["used_bytes"], figures["free_bytes"]):
        return figures, []
    said = f"{format_bytes(used)} used and {format_bytes(free)} free of {format_bytes(total)}"
    return figures, [f"memory: the driver says {said}"]


def other_figures(
    share: tuple[int | None, str], heat: tuple[int | None, str], milliwatts: tuple[int | None, str]
) -> tuple[Figures, list[str]]:
    """Utilisation, temperature and power, each given with the reason why it is missing."""
    watts = None if milliwatts[0] is None else milliwatts[0] / 1000
    figures: Figures = {}
    reasons = []
    for name, said, value, most, why in (
        ("utilization_percent", "utilisation", share[0], 100, share[1]),
        ("temperature_c", "temperature", heat[0], HOTTEST_C, heat[1]),
        ("power_w", "power", watts, MOST_WATTS, milliwatts[1]),
    ):
        figures[name] = value if value is not None and 0 <= value <= most else None
        if figures[name] is None:
            reasons.append(f"{said}: {why or f'the driver says {value:g}'}")
    return figures, reasons


def process_bytes(said: int | None) -> int | None:
    """What a process on the GPU holds. A context is never of 0 bytes: that is what some drivers say inside containers."""
    return said if said is not None and 0 < said <= MOST_BYTES else None


def summed(used: Mapping[int, int | None], ours: Mapping[int, bool | None], name: Callable[[int], str]) -> Processes:
    """The largest processes, and what ours and the others hold, where every part of the sum is known."""
    ordered = sorted(used, key=lambda pid: (-(used[pid] or 0), pid))[:MAX_PROCESSES]
    largest = tuple(GpuProcess(pid=pid, name=name(pid), used_bytes=used[pid], ours=ours[pid]) for pid in ordered)
    silent = sum(size is None for size in used.values())
    reason = f"processes: {silent} of {len(used)} do not show their memory" if silent else ""
    return Processes(largest, len(used), _sum(used, ours, mine=True), _sum(used, ours, mine=False), reason)


def _sum(used: Mapping[int, int | None], ours: Mapping[int, bool | None], *, mine: bool) -> int | None:
    if None in ours.values():
        return None
    sizes = [used[pid] for pid, own in ours.items() if own is mine]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _up_to(value: int, most: int) -> int | None:
    return value if most and 0 <= value <= most else None

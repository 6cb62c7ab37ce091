"""Whether the next segment that an allocator asks for will fit, when fragments make it ask for one after another.

Fragments grow in stairs of whole segments, so that the last ones need no line: what is left is less than one stair.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from statistics import median

from memdash.wire import DeviceMemory, fragment_bytes

LAST = 3
"""So many were asked for lately, and tell the size and the time of the next."""
SMALL_BYTES = 2 << 20
"""What CUDA's caching allocator asks for on behalf of small tensors, which tells nothing of large ones; and what it rounds
those up to."""
OF_CAPACITY = 0.4
"""Share of the device that lies in fragments when they are what is wrong."""
OVERDUE = 2.0
"""Times the longest wait between the last ones; then no more are asked for."""


@dataclass(frozen=True)
class NextSegment:
    """One that will not fit."""

    size_bytes: int
    room_bytes: int
    """What is neither held nor needed by every step; free segments are given back for it."""
    fragments_bytes: int
    in_s: float
    over_s: float
    """The last ones were asked for in this time."""


class Segments:
    """The last few times that what a device holds between steps, tensors and gaps beside them, grew by a segment."""

    def __init__(self) -> None:
        self._grown: deque[tuple[float, int]] = deque(maxlen=LAST)
        self._held: int | None = None
        self._needs: deque[int] = deque(maxlen=LAST)
        """What the last steps needed on top of it; the least of them had no segment to ask for."""

    def add(self, time_s: float, memory: DeviceMemory) -> None:
        """One step; what was given back starts the count anew."""
        held = (memory.allocated_bytes or 0) + (memory.inactive_split_bytes or 0)
        grown, self._held = held - (held if self._held is None else self._held), held
        self._needs.append(max(0, (memory.peak_allocated_bytes or 0) - (memory.allocated_bytes or 0)))
        if grown < -SMALL_BYTES:
            self._grown.clear()
        elif grown > SMALL_BYTES:
            self._grown.append((time_s, grown))

    def misfit(self, memory: DeviceMemory, now_s: float) -> NextSegment | None:
        """None while the next one fits, or none is to come; `now_s` is on the clock of `add`."""
        if len(self._grown) < LAST or memory.capacity_bytes is None or self._held is None:
            return None
        times = [time_s for time_s, _ in self._grown]
        waits = [after - before for before, after in zip(times, times[1:], strict=False)]
        size, room = max(size for _, size in self._grown), memory.capacity_bytes - self._held - min(self._needs)
        fragments = fragment_bytes(memory)
        if (
            room >= size + SMALL_BYTES
            or fragments < OF_CAPACITY * memory.capacity_bytes
            or now_s - times[-1] > OVERDUE * max(waits)
        ):
            return None
        in_s = max(0.0, times[-1] + median(waits) - now_s)
        return NextSegment(size, max(0, room), fragments, in_s, times[-1] - times[0])

"""What a step has to fit into, and what holds its tensors there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runner.planning.trace import Peak

Holder = Literal["tensors", "cuda", "malloc", "returned"]
"""What counts against the capacity: the tensors alone, as on the simulated device; what torch's cache for CUDA reserves for
them; what malloc holds for them; what a malloc holds that returns large blocks at once (`MALLOC_MMAP_THRESHOLD_`)."""
HOLES = 0.46
"""Of what comes and goes within a step, the share that glibc's malloc holds besides, as it comes: the median of 13 BERTs
of all sizes, of which most lay between 0.2 and 0.8."""


@dataclass(frozen=True)
class Room:
    """A device, or this machine's memory for a run on the CPU."""

    capacity_bytes: int | None
    framework_bytes: int = 0
    """Of it, what is taken before the first tensor."""
    granularity: int = 1
    """Bytes that each tensor is rounded up to."""
    source: str = ""
    """What says so, in words for a person."""
    holder: Holder = "tensors"

    @property
    def for_tensors(self) -> int | None:
        """What is left for tensors; None where nobody knows."""
        return None if self.capacity_bytes is None else self.capacity_bytes - self.framework_bytes


def held_by_malloc(peak: Peak) -> int:
    """Bytes, with the holes that glibc keeps; what lasts longer than a step leaves none."""
    lasting = peak.terms["parameters"] + peak.terms["optimizer state"]
    return peak.bytes + round(HOLES * (peak.bytes - lasting))

"""The peak of a step at any batch and length: replayed from scaled traces, or traced directly where these do not scale."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from runner.planning.cuda_cache import reserved
from runner.planning.room import Holder, held_by_malloc
from runner.planning.scaling import Point, ScalesOtherwise, Scaling
from runner.planning.trace import PHASES, Peak, Phase, Script, Sizes, Trace, larger

PROBED_BATCHES = (2, 3)  # one example alone is often a special case, and powers of two hide what is rounded up to them
TOLERANCE = 0.001  # of the peak, between what was scaled and a trace at a size that was not scaled from
Probe = Callable[[int, int], Trace]
"""(batch, length) -> a trace there, at a length that occurs."""


class Estimator:
    """Peaks in bytes on the device. Sizes are rounded up to `granularity`, as a CUDA allocator does to 512."""

    def __init__(
        self,
        probe: Probe,
        lengths: Sequence[int],
        group: int,
        granularity: int = 1,
        holder: Holder = "tensors",
        *,
        is_checked: bool = True,
    ) -> None:
        self.why_not_scaled = ""
        """Why each size is traced for itself; empty where all are scaled from a few traces."""
        self.checked_error: float | None = None
        """Of the scaled peak beside the trace that it was checked with, as a share of it."""
        self._probe = probe
        self._granularity = granularity
        self._holder = holder
        self._is_checked = is_checked
        self._traces: dict[Point, Trace] = {}
        self._known: dict[tuple[int, int, Phase], Peak] = {}
        self._held: dict[tuple[int, int, Phase], int] = {}
        self._scaling: Scaling | None = None
        try:
            self._scaling = self._scale(sorted(set(lengths)), group)
        except ScalesOtherwise as reason:
            self.why_not_scaled = str(reason)

    def phase(self, phase: Phase, batch: int, length: int) -> Peak:
        """Of one phase of a step whose slices are all of this batch and length."""
        key = (batch, length, phase)
        if key not in self._known:
            self._known[key] = self._peak(*self._at(batch, length), phase)
        return self._known[key]

    def step(self, batch: int, length: int, num_slices: int) -> Peak:
        """Of a whole step."""
        return larger(*(self.phase(phase, batch, length) for phase in _phases(num_slices)))

    def held(self, phase: Phase, batch: int, length: int) -> int:
        """Bytes that the holder of the tensors takes for one phase, its fragments and holes included."""
        key = (batch, length, phase)
        if key not in self._held:
            self._held[key] = self._holds(*key)
        return self._held[key]

    def held_step(self, batch: int, length: int, num_slices: int) -> int:
        """The same of a whole step."""
        return max(self.held(phase, batch, length) for phase in _phases(num_slices))

    def _holds(self, batch: int, length: int, phase: Phase) -> int:
        if self._holder == "cuda":
            script, sizes = self._at(batch, length)
            return reserved(script, phase, sizes)
        peak = self.phase(phase, batch, length)
        return held_by_malloc(peak) if self._holder == "malloc" else peak.bytes

    def _at(self, batch: int, length: int) -> tuple[Script, Sizes]:
        if self._scaling is not None:
            return self._scaling.script, self._scaling.sizes(batch, length)
        trace = self._trace(batch, length)
        return trace.script, np.array(trace.sizes, dtype=np.int64)

    def _peak(self, script: Script, sizes: Sizes, phase: Phase) -> Peak:
        return script.peak(phase, -(-sizes // self._granularity) * self._granularity)

    def _trace(self, batch: int, length: int) -> Trace:
        if (batch, length) not in self._traces:
            self._traces[batch, length] = self._probe(batch, length)
        return self._traces[batch, length]

    def _scale(self, lengths: list[int], group: int) -> Scaling:
        """From three traces, checked with one more at the whole group. Raises ScalesOtherwise."""
        small, large = PROBED_BATCHES
        short, long = lengths[len(lengths) // 10], lengths[-1]
        points = {(small, short), (small, long), (large, long)}
        for point in sorted(points):
            self._trace(*point)
        if self._traces[small, short].script != self._traces[small, long].script:
            # What a model makes at its first step and keeps is not there again.
            self._traces[small, short] = self._probe(small, short)
        scaling = Scaling.fit({point: self._traces[point] for point in points})
        if self._is_checked:
            self._check(scaling, group, lengths[len(lengths) // 2])
        return scaling

    def _check(self, scaling: Scaling, group: int, length: int) -> None:
        trace = self._trace(group, length)
        for phase in PHASES:
            scaled = self._peak(scaling.script, scaling.sizes(group, length), phase).bytes
            traced = self._peak(trace.script, np.array(trace.sizes, dtype=np.int64), phase).bytes
            error = abs(scaled - traced) / traced
            if error > TOLERANCE:
                raise ScalesOtherwise(f"scaled to batch {group} and length {length}, a peak is off by {error:.1%}")
            self.checked_error = max(error, self.checked_error or 0.0)


def _phases(num_slices: int) -> Iterator[Phase]:
    return (phase for phase in PHASES if phase != "later" or num_slices > 1)

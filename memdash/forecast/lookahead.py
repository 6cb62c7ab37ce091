"""The first step to come that will not fit, from the lengths of the examples that its sampler has drawn already."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memdash.forecast.peak import Estimate, PeakModel

NEAR_S = 30.0
"""Before that there is time to learn more."""


@dataclass(frozen=True)
class Coming:
    """A step to come whose longest example is longer than that of every step before it.

    Whatever the largest length is that fits, the first step over it is one of these.
    """

    step: int
    longest: int
    example: int
    """Index of its longest example."""


@dataclass(frozen=True)
class Misfit:
    """A step that will not fit, or may not."""

    coming: Coming
    need: Estimate
    """With what is there now; bytes."""
    fitting_micro_batch: int | None
    """The largest micro-batch at which it does fit; None when likely not even one example does."""
    surely: bool
    """Whether that one fits with its whole interval."""

    def sure(self, capacity_bytes: float, in_s: float) -> bool:
        """Whether it will not fit, rather than perhaps not; where the law of smaller loads has it fit, only when it is near."""
        need = self.need
        return need.middle_bytes > capacity_bytes and (need.likely_bytes > capacity_bytes or in_s < NEAR_S)


def first_misfit(
    coming: Sequence[Coming],
    model: PeakModel,
    *,
    done_steps: int,
    micro_batch: int,
    choices: Sequence[int],
    floor_bytes: float,
    capacity_bytes: float,
    caps: dict[int, int] | None = None,
) -> Misfit | None:
    """The first step whose peak likely exceeds the capacity, else the first that may; None when all fit.

    The model tells what a step needs on top of `floor_bytes`. `coming` is in the order of steps, and so of lengths.
    `caps` are steps for which a smaller micro-batch has been asked for.
    """
    caps = caps or {}
    room = capacity_bytes - floor_bytes
    left = coming[bisect_right(coming, done_steps, key=lambda each: each.step) :]

    def need(each: Coming) -> Estimate | None:
        return model.estimate(min(micro_batch, caps.get(each.step, micro_batch)), each.longest)

    def first(over: Callable[[Estimate], bool]) -> Coming | None:
        """What is longer needs no less, so half of what is left is passed over at a time; a capped step counts for itself."""

        def is_over(each: Coming) -> bool:
            estimate = model.estimate(micro_batch, each.longest)
            return estimate is not None and over(estimate)

        place = bisect_left(left, True, key=is_over)
        while place < len(left) and left[place].step in caps:
            capped = need(left[place])
            if capped is not None and over(capped):
                break
            place += 1
        return left[place] if place < len(left) else None

    most = model.estimate(micro_batch, left[-1].longest) if left else None
    if most is None or most.high_bytes <= room:
        return None
    found = first(lambda estimate: estimate.middle_bytes > room) or first(lambda estimate: estimate.high_bytes > room)
    if found is None:
        return None
    estimate = need(found)
    assert estimate is not None
    size = min(micro_batch, caps.get(found.step, micro_batch))
    fitting, surely = model.largest_that_fits([choice for choice in choices if choice < size], found.longest, room)
    return Misfit(found, estimate.on(floor_bytes), fitting, surely)

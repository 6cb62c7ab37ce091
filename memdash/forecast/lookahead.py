"""The first step to come that will not fit, from the lengths of the examples that its sampler has drawn already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memdash.forecast.peak import Estimate, PeakModel


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

    def sure(self, capacity_bytes: float) -> bool:
        """Whether it will not fit, rather than perhaps not."""
        return self.need.middle_bytes > capacity_bytes


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

    The model tells what a step needs on top of `floor_bytes`. `caps` are steps for which a smaller micro-batch has been
    asked for.
    """
    perhaps: Misfit | None = None
    room = capacity_bytes - floor_bytes
    for each in coming:
        if each.step <= done_steps:
            continue
        size = min(micro_batch, (caps or {}).get(each.step, micro_batch))
        need = model.estimate(size, each.longest)
        if need is None or need.high_bytes <= room:
            continue
        smaller = [choice for choice in choices if choice < size]
        fitting, surely = model.largest_that_fits(smaller, each.longest, room)
        misfit = Misfit(each, need.on(floor_bytes), fitting, surely)
        if need.middle_bytes > room:
            return misfit
        perhaps = perhaps or misfit
    return perhaps

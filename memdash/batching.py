"""Micro-batch and accumulation splits of one global batch (pure).

A *group* is the examples of one optimizer step on one rank: `global_batch / world_size`.
`micro_batch` only says how the group is sliced, so every micro-batch from 1 to the group trains
the same thing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from memdash.errors import PlanError


@dataclass(frozen=True)
class BatchSplit:
    """How one global batch is cut: `micro_batch` examples a forward, `grad_accum_steps` forwards a step."""

    global_batch: int
    micro_batch: int
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.global_batch < 1 or self.world_size < 1:
            raise PlanError(f"global_batch={self.global_batch} and world_size={self.world_size} must be at least 1")
        if self.global_batch % self.world_size:
            raise PlanError(
                f"global_batch={self.global_batch} is not a multiple of world_size={self.world_size}",
                hint="every rank trains the same number of examples in a step",
            )
        if not 1 <= self.micro_batch <= self.group:
            raise PlanError(
                f"micro_batch={self.micro_batch} is not between 1 and {self.group}",
                hint=f"choose one of {', '.join(map(str, divisors(self.group)))}",
            )

    @property
    def group(self) -> int:
        """Examples per rank and optimizer step."""
        return self.global_batch // self.world_size

    @property
    def grad_accum_steps(self) -> int:
        """Micro-steps per optimizer step; the last may be smaller."""
        return -(-self.group // self.micro_batch)

    def with_micro_batch(self, micro_batch: int) -> BatchSplit:
        """The same global batch, cut otherwise. Raises PlanError."""
        return BatchSplit(self.global_batch, micro_batch, self.world_size)

    def __str__(self) -> str:
        if self.group % self.micro_batch:
            cut = "+".join(str(stop - start) for start, stop in slices(self.group, self.micro_batch))
        else:
            cut = f"{self.micro_batch} x {self.grad_accum_steps}"
        return (
            f"{cut} x {self.world_size} ranks = {self.global_batch}" if self.world_size > 1 else f"{cut} = {self.group}"
        )


def slices(count: int, micro_batch: int) -> list[tuple[int, int]]:
    """`[start, stop)` of each micro-step over a group of `count` examples; the last may be short."""
    if micro_batch < 1:
        raise PlanError(f"micro_batch={micro_batch} must be at least 1")
    return [(start, min(start + micro_batch, count)) for start in range(0, count, micro_batch)]


def divisors(group: int) -> list[int]:
    """Micro-batches that cut `group` into equal slices, smallest first."""
    small = [size for size in range(1, math.isqrt(max(0, group)) + 1) if group % size == 0]
    return small + [group // size for size in reversed(small) if size * size != group]


def next_smaller(group: int, micro_batch: int) -> int | None:
    """The largest equal cut at most half of `micro_batch`; None when there is nothing below 1."""
    return max((size for size in divisors(group) if size <= micro_batch // 2), default=None)


def next_larger(group: int, micro_batch: int) -> int | None:
    """The smallest equal cut at least twice `micro_batch`; None when the group is one slice already."""
    return min((size for size in divisors(group) if size >= micro_batch * 2), default=None)

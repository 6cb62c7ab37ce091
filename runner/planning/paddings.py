"""What each way to pad, and each way to treat outliers, would do to the worst step of a run: its cells and its peak (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runner.groups import Groups
from runner.planning.outlook import Moment, Need, look
from runner.planning.statistics import epochs
from runner.slicing import OF_ITEMS, Padding, Slicing


@dataclass(frozen=True)
class Policy:
    """One line of a config, or two."""

    padding: Padding
    outliers: str = ""
    """`isolate` or `truncate`; empty = they are treated as all others."""
    outlier_length: int = 0


@dataclass(frozen=True)
class Outcome:
    """What it comes to over a whole run."""

    policy: Policy
    cells: float
    """Computed in the first epoch, as times those that hold data."""
    worst_bytes: int
    """At the peak of the worst step."""
    first_over: Moment | None
    """The first slice that needs more than there is room for."""


@dataclass(frozen=True)
class Sampler:
    """How a run takes its examples, whatever their padding."""

    lengths: Sequence[int]
    group: int
    seed: int
    total_steps: int


def policies(*, has_items: bool, usual: int, longest: int) -> Iterator[Policy]:
    """Those that a task can have, most cells first; with outliers also what rids the rest of them."""
    paddings: tuple[Padding, ...] = ("global", "group", "batch", "bucket", "flat", "sequential")
    yield from (Policy(padding) for padding in paddings if has_items or padding not in OF_ITEMS)
    if usual < longest:
        yield Policy("batch", "isolate", usual)
        yield Policy("batch", "truncate", usual)


def compare(
    which: Iterator[Policy], sampler: Sampler, micro_batch: int, need: Need, room_bytes: int | None
) -> list[Outcome]:
    """Each by the slices that it would really make."""
    return [_outcome(policy, sampler, micro_batch, need, room_bytes) for policy in which]


def _outcome(policy: Policy, sampler: Sampler, micro_batch: int, need: Need, room_bytes: int | None) -> Outcome:
    lengths, group = sampler.lengths, sampler.group
    if policy.outliers == "truncate":
        lengths = [min(length, policy.outlier_length) for length in lengths]
    alone_above = policy.outlier_length if policy.outliers == "isolate" else 0
    slicing = Slicing(lengths, policy.padding, alone_above)
    groups = Groups(len(lengths), group, sampler.seed, slicing.told_lengths() if policy.padding == "bucket" else None)
    run = epochs(slicing, groups, group, micro_batch, sampler.total_steps)
    outlook = look(run, need, micro_batch, room_bytes)
    steps_per_epoch = -(-len(lengths) // group)
    first = next(epochs(slicing, groups, group, micro_batch, steps_per_epoch))
    cells = float((first.longest * first.count).sum()) / sum(lengths)
    return Outcome(policy, cells, outlook.worst_bytes, outlook.first_over)

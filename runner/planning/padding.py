"""What each way to pad costs, and which of them lowers the worst slice rather than the usual one (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args, get_type_hints

import numpy as np

from memdash.config import DataSection
from runner.planning.configuration import Configuration
from runner.planning.outlook import look
from runner.planning.statistics import LengthStatistics
from runner.planning.trace import Phase
from runner.slicing import OF_ITEMS, Slicing


@dataclass(frozen=True)
class Way:
    """One way to pad, over a whole epoch at the config's micro-batch."""

    name: str
    keys: dict[str, Any]
    """What to set for it."""
    blow_up: float
    """Cells that are computed for each that holds data."""
    blow_up_usual: float
    """The same if there were no outliers."""
    usual_bytes: int
    """Of a slice in the middle."""
    worst_bytes: int
    """Of the one that needs most."""
    loses: str = ""
    """What the training goes without, in words for a person."""
    is_possible: bool = True
    """Whether the task can do it."""


def ways(base: Configuration, statistics: LengthStatistics, impossible: Collection[str]) -> list[dict[str, Any]]:
    """Each policy, and what there is to do about outliers where there are some; the config's own comes first."""
    usual = statistics.longest_usual
    short = [length for length in base.slicing.lengths if length <= usual]
    return [
        {
            **asdict(_way(base, name, keys, slicing, short, loses)),
            "is_possible": not {keys.get("data.padding"), keys.get("data.outliers")} & set(impossible),
        }
        for name, keys, slicing, loses in _candidates(base, statistics, short)
        if slicing.padding not in impossible or slicing.padding not in OF_ITEMS  # without items these mean nothing
    ]


def _candidates(
    base: Configuration, statistics: LengthStatistics, short: list[int]
) -> Iterator[tuple[str, dict[str, Any], Slicing, str]]:
    own = base.slicing
    yield own.padding + (", isolated" if own.alone_above else ""), {}, own, ""
    for policy in get_args(get_type_hints(DataSection)["padding"]):
        if policy != own.padding:
            yield policy, {"data.padding": policy}, replace(own, padding=policy), ""
    if not statistics.num_outliers:
        return
    usual, total = statistics.longest_usual, sum(own.lengths)
    keys = {"data.outlier_length": usual}
    if not own.alone_above:
        yield "isolate", {**keys, "data.outliers": "isolate"}, replace(own, alone_above=usual), ""
    lost = total - sum(short)
    loses = f"{statistics.num_outliers} of {statistics.examples:,} examples, {lost / total:.1%} of all length"
    yield "drop", {**keys, "data.outliers": "drop"}, replace(own, lengths=short, alone_above=0), loses
    cut = [min(length, usual) for length in own.lengths]
    loses = f"{1 - sum(cut) / total:.1%} of all length, the ends of what is longer"
    yield "truncate", {**keys, "data.outliers": "truncate"}, replace(own, lengths=cut, alone_above=0), loses


def _way(base: Configuration, name: str, keys: dict[str, Any], slicing: Slicing, short: list[int], loses: str) -> Way:
    micro_batch, framework_bytes = base.config.micro_batch, base.room.framework_bytes
    this = Configuration(base.config, slicing, base.room, base.estimator)
    epoch = this.first_epoch(micro_batch)
    cells = epoch.longest * epoch.count
    middle = int(np.argsort(cells, kind="stable")[len(cells) // 2])
    phase: Phase = "later" if this.slices_of(micro_batch) > 1 else "first"
    usual_bytes = max(
        base.need(phase, int(epoch.count[middle]), int(epoch.longest[middle])),
        base.need("commit", micro_batch, int(epoch.longest[middle])),
    )
    worst_bytes = look([epoch], base.need, micro_batch, None).worst_bytes + framework_bytes
    if not keys:  # later epochs, of which the table of micro-batches knows, may meet a worse slice
        worst_bytes = max(worst_bytes, base.worst_bytes(micro_batch))
    return Way(
        name=name,
        keys=keys,
        blow_up=float(cells.sum()) / float(sum(slicing.lengths)),
        blow_up_usual=_blow_up(base, replace(slicing, lengths=short, alone_above=0), sum(short)),
        usual_bytes=usual_bytes + framework_bytes,
        worst_bytes=worst_bytes,
        loses=loses,
    )


def _blow_up(base: Configuration, slicing: Slicing, total: int) -> float:
    epoch = Configuration(base.config, slicing, base.room, base.estimator).first_epoch(base.config.micro_batch)
    return float((epoch.longest * epoch.count).sum()) / total

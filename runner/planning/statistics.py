"""What the lengths of a data set are, and the slices that the sampler will really cut of it (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runner.groups import Groups
from runner.slicing import OF_ITEMS, Slicing

FAR = 2  # times the 99th percentile: beyond it an example is an outlier
MAX_OUTLIERS = 10  # are listed
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LengthStatistics:
    """Of all training examples."""

    examples: int
    mean: float
    shortest: int
    median: int
    p90: int
    p99: int
    longest: int
    num_outliers: int
    outliers: list[tuple[int, int]]
    """(index, length), longest first."""
    longest_usual: int
    """Of those that are no outliers."""

    @classmethod
    def of(cls, lengths: Sequence[int]) -> LengthStatistics:
        """There is at least one."""
        values = np.asarray(lengths, dtype=np.int64)
        # The percentiles are lengths that occur, so that of few examples the longest is not its own measure.
        low, median, p90, p99, high = np.quantile(values, [0, 0.5, 0.9, 0.99, 1], method="lower").tolist()
        far = np.flatnonzero(values > FAR * p99)
        far = far[np.argsort(-values[far], kind="stable")]
        listed = [(int(index), int(values[index])) for index in far[:MAX_OUTLIERS]]
        usual = int(values[values <= FAR * p99].max())
        return cls(len(values), float(values.mean()), low, median, p90, p99, high, len(far), listed, usual)


@dataclass(frozen=True)
class Slices:
    """Every micro-batch of a stretch of training, in order."""

    step: Numbers
    """The optimizer step that each belongs to, counted from 1."""
    longest: Numbers
    """What it is padded to; 1 where it is items without padding."""
    count: Numbers
    """Its examples, or items."""
    length: Numbers
    """What its longest example is padded to, or the number of its items."""
    example: Numbers
    """The index of the longest of them."""
    is_first: npt.NDArray[np.bool_]
    """Of its group: no gradients are there yet."""

    @classmethod
    def cut(cls, order: Sequence[int], slicing: Slicing, group: int, micro_batch: int, done: int = 0) -> Slices:
        """As the runner will cut and pad an epoch's order; `done` steps were made before."""
        lengths = slicing.lengths
        everywhere = slicing.pad_to(order) if slicing.padding == "global" else 0
        rows = []
        for step, start in enumerate(range(0, len(order), group), done + 1):
            indices = order[start : start + group]
            pad_to = everywhere or slicing.pad_to(indices)
            for number, part in enumerate(slicing.cut(indices, micro_batch)):
                example = max(part, key=lengths.__getitem__)
                for place, (count, longest) in enumerate(slicing.loads(part, pad_to)):
                    length = lengths[example] if slicing.padding in OF_ITEMS else longest
                    rows.append((step, longest, count, length, example, number == place == 0))
        steps, longest_of, count_of, length_of, example_of, is_first = np.array(rows, dtype=np.int64).reshape(-1, 6).T
        return cls(steps, longest_of, count_of, length_of, example_of, is_first.astype(bool))


def epochs(slicing: Slicing, groups: Groups, group: int, micro_batch: int, total_steps: int) -> Iterator[Slices]:
    """The slices of a whole run, an epoch at a time; of the last one only the steps that are made."""
    steps_per_epoch = -(-groups.num_examples // group)
    for epoch, done in enumerate(range(0, total_steps, steps_per_epoch)):
        order = groups.order(epoch)[: (total_steps - done) * group]
        yield Slices.cut(order, slicing, group, micro_batch, done)


def blow_up(lengths: Sequence[int], epoch: Slices) -> dict[str, float]:
    """How many times more cells are computed in a whole epoch than hold data, with each way to pad.

    `trained` is what the config does; `global` is every example padded to the longest; `global_usual` the same without outliers.
    """
    values = np.asarray(lengths, dtype=np.int64)
    statistics = LengthStatistics.of(lengths)
    usual = values[values <= statistics.longest_usual]
    return {
        "global": len(values) * statistics.longest / float(values.sum()),
        "global_usual": len(usual) * statistics.longest_usual / float(usual.sum()),
        "trained": float((epoch.longest * epoch.count).sum()) / float(values.sum()),
    }

"""How a group becomes slices, and how long each is padded; neither changes what is trained, both decide what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from memdash.batching import slices
from memdash.config import DataSection
from memdash.errors import UsageError
from runner.tasks.protocol import Task
from runner.tasks.selection import pads


@dataclass(frozen=True)
class Slicing:
    """Of the training examples of a task."""

    lengths: Sequence[int]
    padding: Literal["batch", "group", "global", "bucket"] = "batch"
    alone_above: int = 0
    """A longer example makes a slice of its own, so that no other is padded to it; 0 = none does."""

    @staticmethod
    def of(task: Task, data: DataSection) -> Slicing:
        """What the config says. Raises UsageError when the task cannot pad that far."""
        if data.padding in ("group", "global") and not pads(task):
            raise UsageError(
                f"data.padding = {data.padding!r}: the task {task.name} does not pad beyond a slice's longest example",
                hint="let its collate take `pad_to`: see runner/tasks/protocol.py",
            )
        return Slicing(task.train_lengths, data.padding, data.outlier_length if data.outliers == "isolate" else 0)

    def cut(self, indices: Sequence[int], micro_batch: int) -> list[list[int]]:
        """The group's slices: equal ones, and those of one long example each after them."""
        rest = [index for index in indices if not self._is_alone(index)]
        alone = [[index] for index in indices if self._is_alone(index)]
        return [rest[start:stop] for start, stop in slices(len(rest), micro_batch)] + alone

    def pad_to(self, indices: Sequence[int]) -> int:
        """At least how long the slices of this group are; 0 = each as long as its longest example."""
        if self.padding == "global":
            return self._longest_of_all
        return self._longest(indices) if self.padding == "group" else 0

    @cached_property
    def _longest_of_all(self) -> int:
        return self._longest(range(len(self.lengths)))

    def _longest(self, indices: Sequence[int]) -> int:
        """Of those that share slices."""
        return max((self.lengths[index] for index in indices if not self._is_alone(index)), default=0)

    def told_lengths(self) -> Sequence[int]:
        """Of every example, for forecasts: one that is alone counts as just short enough to share a slice."""
        if not self.alone_above:
            return self.lengths
        return [min(length, self.alone_above) for length in self.lengths]

    def _is_alone(self, index: int) -> bool:
        return bool(self.alone_above) and self.lengths[index] > self.alone_above

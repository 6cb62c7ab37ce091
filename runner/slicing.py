"""How a group becomes slices, and how long each is padded; neither changes what is trained, both decide what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, cast

from memdash.batching import slices
from memdash.config import DataSection
from memdash.errors import UsageError
from runner.tasks.protocol import Batch, ItemTask, Part, Task, collate
from runner.tasks.selection import has_items, pads

Padding = Literal["batch", "group", "global", "bucket", "flat", "sequential"]
OF_ITEMS = ("flat", "sequential")
"""What only examples of several items can be: laid out without padding, together or one at a time."""


class Request(NamedTuple):
    """What goes through the model at once."""

    indices: tuple[int, ...]
    """Its examples."""
    epoch: int
    pad_to: int = 0
    items: tuple[tuple[int, int], ...] = ()
    """(example, place) of each, where they are laid out without padding."""


def make(task: Task, part: Part, request: Request) -> Batch:
    """Its tensors, on the CPU."""
    if request.items:
        return cast("ItemTask", task).collate_items(part, request.items, request.epoch)
    return collate(task, part, request.indices, request.epoch, request.pad_to)


@dataclass(frozen=True)
class Slicing:
    """Of the training examples of a task."""

    lengths: Sequence[int]
    padding: Padding = "batch"
    alone_above: int = 0
    """A longer example makes a slice of its own, so that no other is padded to it; 0 = none does."""

    @staticmethod
    def of(task: Task, data: DataSection) -> Slicing:
        """What the config says. Raises UsageError when the task cannot pad that far, or has no items."""
        if data.padding in ("group", "global") and not pads(task):
            raise UsageError(
                f"data.padding = {data.padding!r}: the task {task.name} does not pad beyond a slice's longest example",
                hint="let its collate take `pad_to`: see runner/tasks/protocol.py",
            )
        if data.padding in OF_ITEMS and not has_items(task):
            raise UsageError(
                f"data.padding = {data.padding!r}: an example of the task {task.name} is one item, not several",
                hint='padding = "bucket" pads least here; tasks with a `collate_items` have items: see runner/tasks/protocol.py',
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

    def requests(
        self, indices: Sequence[int], epoch: int, pad_to: int = 0, lengths: Sequence[int] | None = None
    ) -> list[Request]:
        """What goes through the model for one slice: all at once, or an item at a time. `lengths` of another part than training."""
        if self.padding not in OF_ITEMS:
            return [Request(tuple(indices), epoch, pad_to)]
        numbers = self.lengths if lengths is None else lengths
        items = [(index, place) for index in indices for place in range(numbers[index])]
        if self.padding == "flat":
            return [Request(tuple(indices), epoch, items=tuple(items))]
        return [Request((index,), epoch, items=((index, place),)) for index, place in items]

    def loads(self, indices: Sequence[int], pad_to: int = 0) -> list[tuple[int, int]]:
        """(examples, length) of each of these batches, in an estimate's terms: a number of items is as many examples of one."""
        num_items = sum(self.lengths[index] for index in indices)
        if self.padding == "flat":
            return [(num_items, 1)]
        if self.padding == "sequential":
            return [(1, 1)] * num_items
        return [(len(indices), max(pad_to, *(self.lengths[index] for index in indices)))]

    def tells(self, indices: Sequence[int], micro_batch: int) -> tuple[int, int]:
        """For forecasts: what the memory of this group follows, and the example that makes it so much.

        The longest length; without padding the items of the largest slice, or always 1 where they come one at a time.
        """
        told = self._told
        if self.padding != "flat":
            example = max(indices, key=told.__getitem__)
            return told[example], example
        largest = max(self.cut(indices, micro_batch), key=lambda cut: sum(self.lengths[index] for index in cut))
        example = max(largest, key=self.lengths.__getitem__)
        return sum(self.lengths[index] for index in largest), example

    def told_lengths(self) -> Sequence[int]:
        """Of every example, for forecasts: one that is alone counts as just short enough to share a slice."""
        return self._told

    @cached_property
    def _told(self) -> Sequence[int]:
        if self.padding == "sequential":
            return [1] * len(self.lengths)
        if not self.alone_above:
            return self.lengths
        return [min(length, self.alone_above) for length in self.lengths]

    @cached_property
    def _longest_of_all(self) -> int:
        return self._longest(range(len(self.lengths)))

    def _longest(self, indices: Sequence[int]) -> int:
        """Of those that share slices."""
        return max((self.lengths[index] for index in indices if not self._is_alone(index)), default=0)

    def _is_alone(self, index: int) -> bool:
        return bool(self.alone_above) and self.lengths[index] > self.alone_above

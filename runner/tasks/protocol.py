"""What a task is: the seam between what is learned and how it is trained.

A task of your own is a plain class with these members (no import needed) and a function that makes it,
`function(options, config)`, named in the config as `task.name = "module:function"`. See examples/own_task.py.
What only some tasks can do are the protocols below; and for a plan's words a task may have `passes`, the names of the forward
passes that each of its items takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, cast

from torch import Tensor, nn

Part = Literal["train", "validation"]
Batch = dict[str, Tensor]


class Task(Protocol):
    """One workload. Examples are named by their index; an epoch's order and slicing are the runner's matter."""

    name: str
    item_name: str
    """What the loss is averaged over, such as `tokens` or `examples`."""
    train_lengths: Sequence[int]
    """The length of every training example (tokens, timesteps); all 1 where that means nothing."""
    validation_lengths: Sequence[int]
    """The same for the examples held out; empty = no evaluation."""

    def build_model(self) -> nn.Module:
        """The model on the CPU. The global generators are seeded before, so initial weights follow the run's seed."""

    def collate(self, part: Part, indices: Sequence[int], epoch: int) -> Batch:
        """One micro-batch of named tensors on the CPU.

        A function of its arguments and the run's seed: an epoch cut otherwise, or resumed, must give the same examples.
        With a further argument `pad_to: int = 0`, the least length to pad to, a task can do `data.padding = "group"`.
        """

    def count_items(self, batch: Batch) -> int:
        """What the loss of this batch is summed over: labels that are not ignored, or examples."""

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Forward; the *sum* of the loss over the batch's items. The runner divides by the items of the whole group."""

    def metric_sums(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """For evaluation, without gradients: sums over the batch's items, such as the loss and the right answers.

        Each is divided by the items of the whole validation part; what a mean cannot say is `finish_metrics`' matter.
        """

    def save_files(self, model: nn.Module, folder: Path) -> None:
        """Add what a checkpoint needs besides the weights, such as a tokenizer. May do nothing."""


class FileTask(Task, Protocol):
    """A task that can say where in its file each training example is."""

    train_lines: Sequence[int]
    """0 where one has no line."""


class PaddingTask(Task, Protocol):
    """A task whose slices may be padded further than to their longest example."""

    def collate(self, part: Part, indices: Sequence[int], epoch: int, pad_to: int = 0) -> Batch:
        """At least `pad_to` long."""


class ItemTask(Task, Protocol):
    """A task whose examples are several items each, and whose lengths are numbers of items.

    A batch has one row for each item or padded place, and what a step takes follows from the number of rows.
    """

    def collate_items(self, part: Part, items: Sequence[tuple[int, int]], epoch: int) -> Batch:
        """Exactly these items, each as (example, its place there from 0), and no padding."""


class TruncatingTask(Task, Protocol):
    """A task whose training examples can be cut."""

    def truncate(self, length: int) -> None:
        """Cut every training example that is longer; `train_lengths` says so afterwards. Raises UsageError."""


class ScoredTask(Task, Protocol):
    """A task with metrics that are no means over its items, such as F1 or an error rate of words."""

    def finish_metrics(self, sums: Mapping[str, float], num_items: int) -> dict[str, float]:
        """The metrics, from what `metric_sums` came to over the whole validation part and its number of items."""


def collate(task: Task, part: Part, indices: Sequence[int], epoch: int, pad_to: int) -> Batch:
    """A micro-batch that is at least `pad_to` long; 0 = as long as its longest example."""
    if not pad_to:
        return task.collate(part, indices, epoch)
    return cast("PaddingTask", task).collate(part, indices, epoch, pad_to)


def finish_metrics(task: Task, sums: Mapping[str, float], num_items: int) -> dict[str, float]:
    """The metrics of an evaluation: as the task makes them, else each sum by the number of items."""
    if hasattr(task, "finish_metrics"):
        return cast("ScoredTask", task).finish_metrics(sums, num_items)
    return {name: total / num_items for name, total in sums.items()}


REQUIRED: tuple[str, ...] = ("name", "item_name", "train_lengths", "validation_lengths", "build_model", "collate")
REQUIRED += ("count_items", "loss_sum", "metric_sums", "save_files")

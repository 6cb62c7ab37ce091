"""The examples of a task that a run uses: a share drawn by its seed, without outliers where the config drops them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from memdash.config import RunConfig
from memdash.errors import UsageError
from runner.randomness import permutation
from runner.tasks.protocol import Batch, ItemTask, Part, Task, TruncatingTask, collate, finish_metrics

if TYPE_CHECKING:
    from torch import Tensor, nn


def select(task: Task, config: RunConfig) -> Task:
    """The task itself when the config leaves nothing out. Raises UsageError when nothing would be left."""
    data, seed = config.data, config.run.seed
    if data.subset_ratio == 1 and not data.outlier_length:
        return task
    notes = list(getattr(task, "notes", ()))
    kept: dict[Part, list[int]] = {
        "train": _share(len(task.train_lengths), data.subset_ratio, seed, "train"),
        "validation": _share(len(task.validation_lengths), data.subset_ratio, seed, "validation"),
    }
    if data.subset_ratio < 1:
        used, there = len(kept["train"]), len(task.train_lengths)
        notes.append(f"data.subset_ratio = {data.subset_ratio:g}: {used} of {there} training examples are used")
    if data.outlier_length:
        longer = [index for index in kept["train"] if task.train_lengths[index] > data.outlier_length]
        notes.append(_about_outliers(task.train_lengths, kept["train"], longer, config))
        if data.outliers == "truncate":
            _truncate(task, data.outlier_length)
        if data.outliers == "drop":
            left_out = set(longer)
            kept["train"] = [index for index in kept["train"] if index not in left_out]
            if not kept["train"]:
                raise UsageError(f"data.outlier_length = {data.outlier_length}: every training example is longer")
    return Selection(task, kept, notes)


def pads(task: Task) -> bool:
    """Whether a task can pad further than to the longest example of a slice."""
    return "pad_to" in inspect.signature(_whole(task).collate).parameters


def has_items(task: Task) -> bool:
    """Whether its examples are several items each."""
    return hasattr(_whole(task), "collate_items")


def cannot(task: Task) -> set[str]:
    """The values of `data.padding` and `data.outliers` that it does not do."""
    members = {"collate_items": ("flat", "sequential"), "truncate": ("truncate",)}
    lacks = {value for member, values in members.items() if not hasattr(_whole(task), member) for value in values}
    return lacks if pads(task) else lacks | {"group", "global"}


def _whole(task: Task) -> Task:
    return task.task if isinstance(task, Selection) else task


def _share(count: int, ratio: float, seed: int, part: Part) -> list[int]:
    if ratio == 1 or not count:
        return list(range(count))
    return sorted(permutation(count, seed, "subset", part)[: max(1, round(count * ratio))])


def _truncate(task: Task, length: int) -> None:
    if not hasattr(task, "truncate"):
        hint = (
            'outliers = "isolate" or "drop" work with any task; or give it a `truncate`: see runner/tasks/protocol.py'
        )
        raise UsageError(f'data.outliers = "truncate": the task {task.name} cannot cut its examples', hint=hint)
    cast("TruncatingTask", task).truncate(length)


def _about_outliers(lengths: Sequence[int], used: list[int], longer: list[int], config: RunConfig) -> str:
    """How many there are, the longest, and what is lost with them."""
    limit, deed = config.data.outlier_length, config.data.outliers
    if not longer:
        return f"data.outlier_length = {limit}: no training example is longer"
    longest = max(longer, key=lambda index: lengths[index])
    lost, total = sum(lengths[index] for index in longer), sum(lengths[index] for index in used)
    if deed == "truncate":
        lost -= limit * len(longer)
    text = f"data.outlier_length = {limit}: {len(longer)} of {len(used)} training examples are longer, "
    text += f"the longest is example {longest} of length {lengths[longest]}; "
    if deed == "isolate":
        return text + "each is trained in a slice of its own, none is lost"
    done = f"each is cut to {limit}" if deed == "truncate" else "they are dropped"
    return (
        text
        + f"{done}, and {lost} of {total} ({lost / total:.1%}) of all length with {'that' if deed == 'truncate' else 'them'}"
    )


class Selection:
    """A task with fewer examples, renumbered from 0."""

    def __init__(self, task: Task, kept: dict[Part, list[int]], notes: Sequence[str]) -> None:
        self.task = task
        """The whole of it."""
        self._kept = kept
        self.name, self.item_name = task.name, task.item_name
        self.notes = notes
        """For the journal: what is left out, and why."""
        lines = getattr(task, "train_lines", ())
        self.train_lines: Sequence[int] = [lines[index] for index in kept["train"]] if lines else ()
        self.train_lengths: Sequence[int] = [task.train_lengths[index] for index in kept["train"]]
        self.validation_lengths: Sequence[int] = [task.validation_lengths[index] for index in kept["validation"]]
        self.passes: Sequence[str] = getattr(task, "passes", ())

    def build_model(self) -> nn.Module:
        """The task's."""
        return self.task.build_model()

    def collate(self, part: Part, indices: Sequence[int], epoch: int, pad_to: int = 0) -> Batch:
        """The task's, of the same examples under its own numbers."""
        return collate(self.task, part, [self._kept[part][index] for index in indices], epoch, pad_to)

    def collate_items(self, part: Part, items: Sequence[tuple[int, int]], epoch: int) -> Batch:
        """The task's, of the same items."""
        kept = self._kept[part]
        return cast("ItemTask", self.task).collate_items(part, [(kept[index], place) for index, place in items], epoch)

    def count_items(self, batch: Batch) -> int:
        """The task's."""
        return self.task.count_items(batch)

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """The task's."""
        return self.task.loss_sum(model, batch)

    def metric_sums(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """The task's."""
        return self.task.metric_sums(model, batch)

    def finish_metrics(self, sums: Mapping[str, float], num_items: int) -> dict[str, float]:
        """The task's, or means."""
        return finish_metrics(self.task, sums, num_items)

    def save_files(self, model: nn.Module, folder: Path) -> None:
        """The task's."""
        self.task.save_files(model, folder)

"""What a training really did, from the log that its own optimizer wrote (pure but for reading the file)."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TAIL_BYTES = 8192  # more than a line


@dataclass(frozen=True)
class Update:
    """One optimizer step."""

    step: int
    epoch: int
    slices: tuple[tuple[int, ...], ...]
    """The examples of each micro-batch, in order."""
    attempt: int
    time_s: float

    @property
    def examples(self) -> list[int]:
        """Of the whole group."""
        return [index for piece in self.slices for index in piece]


@dataclass(frozen=True)
class Lineage:
    """The updates that the final weights come from; what a kill undid is left out."""

    updates: list[Update]
    num_redone: int
    """Updates that were undone by going back to a checkpoint, and trained again."""
    faults: list[str]
    """What cannot be, such as a step that is missing."""

    def wrong_examples(self, num_examples: int) -> list[str]:
        """Each epoch in which an example was not trained exactly once; the last epoch may be unfinished."""
        wrong = []
        last = self.updates[-1].epoch if self.updates else 0
        for epoch in range(last + 1):
            times = Counter(index for update in self.updates if update.epoch == epoch for index in update.examples)
            twice = [index for index, count in times.items() if count != 1]
            missing = num_examples - len(times) if epoch < last else 0
            if twice or missing:
                wrong.append(f"epoch {epoch}: {len(twice)} not once, {missing} missing")
        return wrong

    @property
    def num_examples(self) -> int:
        """Trained in all, each epoch's counted."""
        return sum(len(update.examples) for update in self.updates)

    def micro_batches(self) -> set[int]:
        """The sizes that groups were cut into; the short last slice of a group says nothing."""
        return {len(update.slices[0]) for update in self.updates}


def read_updates(path: Path) -> list[Update]:
    """Every whole line, oldest first. What was being written when its process was killed is trained again."""
    return _updates(path.read_bytes()) if path.exists() else []


def last_step(path: Path) -> int:
    """The number of the newest update, quickly; 0 before the first."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            _, _, tail = file.read().partition(b"\n")  # it may begin in the middle of a line
    except FileNotFoundError:
        return 0
    updates = _updates(tail)
    return updates[-1].step if updates else 0


def lineage(updates: list[Update]) -> Lineage:
    """An update with a number that was there before comes from a checkpoint before it: what followed there is undone."""
    kept: list[Update] = []
    faults = []
    attempt = 0
    for update in updates:
        if update.attempt < attempt:
            faults.append(f"attempt {update.attempt} trained step {update.step} after attempt {attempt} had begun")
        attempt = max(attempt, update.attempt)
        if update.step > len(kept) + 1:
            faults.append(f"step {update.step} follows step {len(kept)}")
        del kept[update.step - 1 :]
        kept.append(update)
    return Lineage(kept, len(updates) - len(kept), faults)


def _updates(lines: bytes) -> list[Update]:
    found = []
    for line in lines.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            fields: dict[str, Any] = json.loads(line)
            slices = tuple(tuple(piece) for piece in fields.pop("slices"))
            found.append(Update(slices=slices, **fields))
    return found

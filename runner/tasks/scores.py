"""Scores that no mean over examples is: the F1 of each class and their mean, from counts that add up over batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("right", "guessed", "there")


def class_sums(guesses: Tensor, labels: Tensor) -> dict[str, float]:
    """For each class, by its number: how often it was guessed rightly, guessed, and there. Both are (examples,)."""
    counted = {"right": labels[guesses == labels], "guessed": guesses, "there": labels}
    return {
        f"{kind} {number}": float(count)
        for kind in KINDS
        for number, count in enumerate(counted[kind].bincount().tolist())
        if count
    }


def macro_f1(sums: Mapping[str, float]) -> float:
    """The mean F1 of the classes that were guessed or there; 0 where there is none.

    F1 = 2 right / (guessed + there), which is the harmonic mean of precision and recall.
    """
    classes = {name.partition(" ")[2] for name in sums if name.partition(" ")[0] in KINDS[1:]}
    scores = [
        2 * sums.get(f"right {name}", 0.0) / (sums.get(f"guessed {name}", 0.0) + sums.get(f"there {name}", 0.0))
        for name in classes
    ]
    return sum(scores) / len(scores) if scores else 0.0

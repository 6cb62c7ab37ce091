"""A traced optimizer step: which storages live when, how large they are, and so its peak (pure).

A group is trained in slices. The first one has no gradients beside it yet, every later one has those of all parameters,
and the commit after the last one has gradients but no activations: three peaks, and a step's is the largest of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

Kind = Literal["parameters", "gradients", "optimizer state", "activations", "temporaries"]
KINDS: tuple[Kind, ...] = ("parameters", "gradients", "optimizer state", "activations", "temporaries")
Phase = Literal["first", "later", "commit"]
PHASES: tuple[Phase, ...] = ("first", "later", "commit")
Sizes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Peak:
    """The most that lives at once."""

    bytes: int
    terms: dict[Kind, int]
    """What that consists of."""


@dataclass(frozen=True)
class Script:
    """What comes and goes in which order; the same at every batch and length, unless the model decides by size."""

    events: tuple[int, ...]
    """A storage's number when it is made, and its complement (`~number`) when it is freed. The first ones stay."""
    kinds: tuple[Kind, ...]
    """Of each storage."""
    starts: tuple[tuple[Phase, int], ...]
    """The event at which each phase begins, in order."""

    @cached_property
    def storages(self) -> npt.NDArray[np.int64]:
        """The storage of each event."""
        events = np.asarray(self.events, dtype=np.int64)
        return np.where(events < 0, ~events, events)

    @cached_property
    def signs(self) -> npt.NDArray[np.int64]:
        """1 where one is made, -1 where it is freed."""
        return np.where(np.asarray(self.events) < 0, -1, 1)

    def span(self, phase: Phase) -> tuple[int, int]:
        """`[start, stop)` of its events."""
        starts = [start for _, start in self.starts] + [len(self.events)]
        place = [name for name, _ in self.starts].index(phase)
        return starts[place], starts[place + 1]

    def peak(self, phase: Phase, sizes: Sizes) -> Peak:
        """Of one phase, with what lives on from those before it; `sizes` in bytes, one for each storage."""
        changes = self.signs * sizes[self.storages]
        start, stop = self.span(phase)
        living = np.cumsum(changes[:stop])
        top = max(0, start - 1)
        top += int(living[top:].argmax()) if stop else 0
        kinds = np.asarray(self.kinds)[self.storages[: top + 1]]
        terms: dict[Kind, int] = {kind: int(changes[: top + 1][kinds == kind].sum()) for kind in KINDS}
        return Peak(int(living[top]), terms)


@dataclass(frozen=True)
class Trace:
    """A script with the sizes of one batch and length."""

    script: Script
    sizes: tuple[int, ...]
    """Bytes of each storage."""


def larger(*peaks: Peak) -> Peak:
    """The one that a step must have room for."""
    return max(peaks, key=lambda peak: peak.bytes)

"""Which step of a run will not fit, by the order in which its sampler will really take the examples (pure)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from runner.planning.statistics import Slices
from runner.planning.trace import Phase

Need = Callable[[Phase, int, int], int]
"""(phase, batch, length) -> bytes at the peak; never less for a longer one."""


@dataclass(frozen=True)
class Moment:
    """A slice that matters."""

    step: int
    example: int
    """The index of its longest."""
    length: int
    count: int
    bytes: int
    """At its peak."""


@dataclass(frozen=True)
class Outlook:
    """What a whole run will need."""

    worst: Moment | None
    """The slice that needs most; None where no step's slices need as much as its update."""
    worst_bytes: int
    first_over: Moment | None
    """The first that needs more than there is room for."""

    @property
    def fits(self) -> bool:
        """Whether the run will come to its end."""
        return self.first_over is None


def look(run: Iterable[Slices], need: Need, micro_batch: int, room_bytes: int | None) -> Outlook:
    """Of all slices; `run` is an epoch at a time."""
    commit = 0
    worst: Moment | None = None
    over: Moment | None = None
    for slices in run:
        commit = commit or need("commit", micro_batch, int(slices.longest[0]))  # the same at every size
        tight = _most(slices, need)
        worst = tight if worst is None or tight.bytes > worst.bytes else worst
        if room_bytes is not None and over is None and max(tight.bytes, commit) > room_bytes:
            over = (
                _moment(slices, 0, need) if commit > room_bytes else _first_over(slices, need, micro_batch, room_bytes)
            )
    assert worst is not None, "a run has at least one step"
    return Outlook(worst if worst.bytes > commit else None, max(worst.bytes, commit), over)


def _phase(slices: Slices, place: int) -> Phase:
    return "first" if slices.is_first[place] else "later"


def _moment(slices: Slices, place: int, need: Need) -> Moment:
    count = int(slices.count[place])
    bytes_ = need(_phase(slices, place), count, int(slices.longest[place]))
    return Moment(int(slices.step[place]), int(slices.example[place]), int(slices.length[place]), count, bytes_)


def _most(slices: Slices, need: Need) -> Moment:
    """Of each size the longest slice is enough to look at."""
    candidates = []
    for is_first in (True, False):
        for count in np.unique(slices.count):
            places = np.flatnonzero((slices.is_first == is_first) & (slices.count == count))
            if len(places):
                candidates.append(_moment(slices, int(places[slices.longest[places].argmax()]), need))
    return max(candidates, key=lambda moment: moment.bytes)


def _first_over(slices: Slices, need: Need, micro_batch: int, room_bytes: int) -> Moment | None:
    """Whole slices by the length that is too much for them, found by bisection; a short one for itself."""
    is_whole = slices.count == micro_batch
    doubtful = ~is_whole
    for is_first in (True, False):
        places = np.flatnonzero((slices.is_first == is_first) & is_whole)
        places = places[np.argsort(slices.longest[places], kind="stable")]
        begin = bisect_left(places, True, key=lambda place: _moment(slices, place, need).bytes > room_bytes)
        doubtful[places[begin:]] = True
    moments = (_moment(slices, place, need) for place in np.flatnonzero(doubtful).tolist())
    return next((moment for moment in moments if moment.bytes > room_bytes), None)

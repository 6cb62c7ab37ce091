"""Which of the steps to come matter to a forecast: each that is longer than all before it (pure)."""

from __future__ import annotations

from collections.abc import Sequence

MAX_STEPS = 8192  # about 200 kB on the wire; epochs sorted by length are thinned out


def records(longest: Sequence[int]) -> list[int]:
    """Positions of the values that are larger than every one before them.

    The first value over any limit is one of these. Beyond MAX_STEPS of them only every n-th is kept, and the last: then
    the first one over a limit may be named up to n - 1 records too late.
    """
    found, most = [], 0
    for position, value in enumerate(longest):
        if value > most:
            most = value
            found.append(position)
    if len(found) <= MAX_STEPS:
        return found
    every = -(-len(found) // MAX_STEPS)
    return [*found[:-1:every], found[-1]]

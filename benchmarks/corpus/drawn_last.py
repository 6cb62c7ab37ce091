"""The scoring split: every kind once more, from a seed that was drawn when everything had been tuned, looked at by nobody."""

from __future__ import annotations

from random import Random

from benchmarks.corpus import drawn, drawn_again
from benchmarks.corpus.scenarios import Scenario
from benchmarks.corpus.soak import soak

SEED = "1795849415"
"""The clock, once growth of others had been told from the run's own."""
MARK = "h"
SOAK_S = 3900.0
SOAK = soak(MARK, seed=SEED, seconds=SOAK_S) + soak(MARK + MARK, seed=SEED, seconds=SOAK_S)
"""All at once, on a machine that others used meanwhile: enough hours to tell a tenth of a false alarm an hour."""


def short(kinds: dict[str, tuple[int, drawn.Draw]]) -> list[Scenario]:
    """As many of each kind as there were before."""
    return [draw(name, _random(name)) for kind, (count, draw) in kinds.items() for name in _names(kind, count)]


def others(kinds: dict[str, tuple[int, int, drawn_again.Draw]]) -> list[Scenario]:
    """As many for scoring as there were before: other models, slow deaths, fragmentation."""
    return [
        draw(name, _random(name), "scoring") for kind, (_, count, draw) in kinds.items() for name in _names(kind, count)
    ]


def _names(kind: str, count: int) -> list[str]:
    return [f"{kind}-{MARK}{number}" for number in range(1, count + 1)]


def _random(name: str) -> Random:
    return Random(f"{SEED} {name}")

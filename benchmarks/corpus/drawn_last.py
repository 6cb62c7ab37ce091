"""What was drawn last, only to be scored: after everything had been tuned and mended, and looked at by nobody before."""

from __future__ import annotations

from random import Random

from benchmarks.corpus import drawn, drawn_again
from benchmarks.corpus.scenarios import Scenario
from benchmarks.corpus.soak import soak

SEED = "1795841490"
"""The clock, once growth of others had been told from the run's own."""
MARK = "g"
SECONDS = 2400.0
SOAK = soak(MARK, seed=SEED, seconds=SECONDS)
"""Healthy ones, all at once; the tests of the whole project ran on the same machine meanwhile, and took what they took."""

SHORT = {
    "host-leak": 1,
    "host-leak-saw": 1,
    "host-leak-evaluations": 1,
    "host-leak-late": 1,
    "host-neighbour-grows": 3,
    "device-graphs": 1,
    "device-hidden": 1,
    "device-neighbour-grows": 1,
}
SLOW = {"slow-host-leak": 1, "slow-host-neighbour": 2}
"""How many deaths of each kind."""


def looking(kinds: dict[str, tuple[int, int, drawn_again.Draw]]) -> list[Scenario]:
    """Those that look ahead, as many as there were for scoring before."""
    return drawn_again.looking(kinds, MARK, SEED)


def dying() -> list[Scenario]:
    """Leaks and neighbours, short and slow."""
    short = [drawn.DYING[kind][1](name, _random(name)) for kind, name in _names(SHORT)]
    slow = [drawn_again.DYING[kind][2](name, _random(name), "scoring") for kind, name in _names(SLOW)]
    return short + slow


def _names(counts: dict[str, int]) -> list[tuple[str, str]]:
    return [(kind, f"{kind}-{MARK}{number}") for kind, count in counts.items() for number in range(1, count + 1)]


def _random(name: str) -> Random:
    return Random(f"{SEED} {name}")

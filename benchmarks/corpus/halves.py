"""Both halves of the corpus by name: what the forecast was tuned on, and what it is only scored on."""

from __future__ import annotations

from benchmarks._traces import Half
from benchmarks.corpus import drawn, drawn_again, drawn_last, scenarios, soak
from benchmarks.corpus.scenarios import Scenario

HALVES: dict[Half, tuple[Scenario, ...]] = {
    "tuning": (
        *scenarios.HEALTHY,
        *scenarios.DYING,
        *drawn_again.scenarios(drawn_again.HEALTHY | drawn_again.DYING, "tuning"),
    ),
    "scoring": (
        *drawn.scenarios(drawn.HEALTHY | drawn.LONG | drawn.DYING),
        *soak.SOAK,
        *drawn_again.scenarios(drawn_again.HEALTHY | drawn_again.DYING, "scoring"),
        *drawn_again.fresh(drawn_again.HEALTHY | drawn_again.DYING),
        *drawn_last.SOAK,
        *drawn_last.looking(drawn_again.HEALTHY | drawn_again.DYING),
        *drawn_last.dying(),
    ),
}
HALF_OF: dict[str, Half] = {each.name: half for half, scenarios in HALVES.items() for each in scenarios}
SCENARIOS = {each.name: each for scenarios in HALVES.values() for each in scenarios}
MEANT_TO_DIE = {
    each.name
    for each in (
        *scenarios.DYING,
        *drawn.scenarios(drawn.DYING),
        *(each for half in HALVES for each in drawn_again.scenarios(drawn_again.DYING, half)),
        *drawn_again.fresh(drawn_again.DYING),
        *drawn_last.looking(drawn_again.DYING),
        *drawn_last.dying(),
    )
}
"""One of these that outlives its recording is not kept: nobody knows what it would have come to."""

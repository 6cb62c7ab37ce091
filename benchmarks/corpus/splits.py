"""The splits of the corpus by name: what the forecast was tuned on, what it was scored on before, what scores it."""

from __future__ import annotations

from benchmarks._traces import Split
from benchmarks.corpus import drawn, drawn_again, drawn_last, scenarios, soak
from benchmarks.corpus.scenarios import Scenario

SPLITS: dict[Split, tuple[Scenario, ...]] = {
    "tuning": (
        *scenarios.HEALTHY,
        *scenarios.DYING,
        *drawn_again.scenarios(drawn_again.HEALTHY | drawn_again.DYING, "tuning"),
    ),
    "seen": (
        *drawn.scenarios(drawn.HEALTHY | drawn.LONG | drawn.DYING),
        *soak.SOAK,
        *drawn_again.scenarios(drawn_again.HEALTHY | drawn_again.DYING, "scoring"),
        *drawn_again.fresh(drawn_again.HEALTHY | drawn_again.DYING),
        *drawn_last.FIRST.everything(),
    ),
    "scoring": tuple(drawn_last.SECOND.everything()),
}
SPLIT_OF: dict[str, Split] = {each.name: split for split, scenarios in SPLITS.items() for each in scenarios}
SCENARIOS = {each.name: each for scenarios in SPLITS.values() for each in scenarios}
MEANT_TO_DIE = {
    each.name
    for each in (
        *scenarios.DYING,
        *drawn.scenarios(drawn.DYING),
        *(each for half in ("tuning", "scoring") for each in drawn_again.scenarios(drawn_again.DYING, half)),
        *drawn_again.fresh(drawn_again.DYING),
        *drawn_last.FIRST.dying(),
        *drawn_last.SECOND.dying(),
    )
}
"""One of these that outlives its recording is not kept: nobody knows what it would have come to."""

"""The rules that people use, at two settings each: what suits them best, and where they are as seldom wrong as we are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median

from benchmarks import _alarms
from benchmarks._alarms import Rule
from benchmarks._forecast_score import Score, score
from benchmarks._traces import Trace

SCALES = (1.0, 4.0, 10.0, 20.0, 30.0, 60.0, 120.0)
"""Traces of minutes stand for runs of hours: all times of a rule are divided by one of these."""
QUICK_SCALES = (10.0, 60.0)
AHEAD, HOLD = (1.0, 1 / 4, 1 / 16, 1 / 64), (1.0, 4.0, 16.0)
R2, LASTS = (0.7, 0.9, 0.97, 0.99), (0.0, 0.5, 2.0)
HALF_FOUND = 0.5
"""A setting that finds fewer deaths than this is no setting."""


@dataclass(frozen=True)
class Setting:
    """One rule with its figures."""

    name: str
    rule: Rule
    is_usual: bool
    """Nothing but the time scale differs from what is published."""


@dataclass(frozen=True)
class Peer:
    """A setting and what it came to on traces that it was not chosen on."""

    name: str
    score: Score


def peers(tuning: Sequence[Trace], scoring: Sequence[Trace], precision: float, *, quick: bool) -> list[Peer]:
    """Each rule as it is used and as careful as ours, chosen on `tuning`, where ours reaches `precision`."""
    scales = QUICK_SCALES if quick else SCALES
    chosen = []
    for settings in (_predict_linear(scales), _steady_growth(scales)):
        tried = [(setting, score(setting.rule, tuning)) for setting in settings]
        usual = max((each for each in tried if each[0].is_usual), key=lambda each: each[1].f1)
        able = [each for each in tried if each[1].recall >= HALF_FOUND] or [usual]
        careful = max(able, key=lambda each: (min(precision, each[1].precision), median(each[1].lead_s)))
        reached = f"chosen for precision: {careful[1].precision:.2f} on the tuning split"
        chosen += [(usual[0].name, usual[0].rule), (f"{careful[0].name}; {reached}", careful[0].rule)]
    return [Peer(name, score(rule, scoring)) for name, rule in chosen]


def _predict_linear(scales: Iterable[float]) -> list[Setting]:
    return [
        Setting(
            f"predict_linear over {_minutes(_alarms.RANGE_S / scale)}, {_minutes(_alarms.AHEAD_S * ahead / scale)} ahead, "
            f"for {_minutes(_alarms.HOLD_S * hold / scale)}",
            _alarms.predict_linear(scale, ahead, hold),
            ahead == hold == 1.0,
        )
        for scale, ahead, hold in product(scales, AHEAD, HOLD)
    ]


def _steady_growth(scales: Iterable[float]) -> list[Setting]:
    return [
        Setting(
            f"R2 >= {r2:g} over {_minutes(_alarms.LEAK_WINDOW_S / scale)}, for {_minutes(_alarms.LEAK_WINDOW_S * lasts / scale)}",
            _alarms.steady_growth(scale, r2, lasts),
            r2 == _alarms.LEAK_R2 and not lasts,
        )
        for scale, r2, lasts in product(scales, R2, LASTS)
    ]


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.3g} min" if seconds >= 60 else f"{seconds:.3g} s"

"""How urgent an outlook is; a level is entered at once, and left only when it has been calmer for a while."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from memdash.forecast.lookahead import Misfit
from memdash.forecast.trend import Trend
from memdash.wire import Outlook, Risk, RunState

ORDER: tuple[Risk, ...] = ("ok", "watch", "warning", "critical")
WATCH_S, WARNING_S = 3600.0, 900.0
CRITICAL_S, CRITICAL_SAVES = 60.0, 5.0
"""Critical is what leaves time for no more than this, or for so many full checkpoints."""
WAY_SEEN, WAY_GONE = 0.1, 0.6
"""A trend is watched, or believed, when it has gone so much of the way that it still has to go."""
OTHERS_WAY_GONE = 2.0
"""Others start and stop as they like: nothing but how far they have gone tells how far they go on, so they must have gone
further. What has grown by so much grows on by half of it in two cases of three, if no moment to look is likelier."""
NEARLY_FULL = 0.75
"""What will have filled so much of the room by the end of the first epoch is not waited for."""
GONE_ON = 0.25
"""Growth of the first epoch is believed when it has gone on for so much of its span in the second."""
CALM_S = 15.0


def trend_risk(
    trend: Trend, gap_bytes: float, reach_s: tuple[float, float, float], state: RunState, *, of_others: bool = False
) -> Risk:
    """Of a floor that rises: by when the ceiling is hit, how much of the way was seen, and whether the run ends before.

    Growth of others is believed later, unless to wait any longer would leave no time for a full checkpoint.
    """
    early_s, likely_s, _ = reach_s
    if state.eta_s is not None and early_s > state.eta_s:
        return "ok"
    may_wait = of_others and early_s > (state.longest_save_s or 0.0)
    way_gone = OTHERS_WAY_GONE if may_wait else WAY_GONE
    seen = trend.rise_bytes >= way_gone * gap_bytes and trend.to_come_bytes >= gap_bytes
    believed = seen and not may_fill_up(trend, gap_bytes, likely_s, state)
    if state.eta_s is None or likely_s <= state.eta_s:
        if believed and early_s < max(CRITICAL_S, CRITICAL_SAVES * (state.longest_save_s or 0.0)):
            return "critical"
        if believed and likely_s < WARNING_S:
            return "warning"
    return "watch" if likely_s < WATCH_S and trend.rise_bytes >= WAY_SEEN * gap_bytes else "ok"


def may_fill_up(trend: Trend, gap_bytes: float, likely_s: float, state: RunState) -> bool:
    """Whether it may end by itself well before the ceiling: a cache is full when every example has come once."""
    if not state.steps_per_epoch or gap_bytes <= 0 or likely_s <= 0:
        return False
    left_s = (state.start_step + state.steps_per_epoch - state.step) * (state.step_time_s or 0.0)
    filled_bytes = trend.rise_bytes + gap_bytes * max(0.0, left_s) / likely_s
    if filled_bytes >= NEARLY_FULL * (trend.rise_bytes + gap_bytes):
        return False
    return left_s > -GONE_ON * trend.span_s


def misfit_risk(misfit: Misfit, in_s: float, *, sure: bool) -> Risk:
    """Of a step that does not fit: worst when it is near and no micro-batch would help."""
    if not sure:
        return "watch"
    hopeless = misfit.fitting_micro_batch is None
    return "critical" if in_s < CRITICAL_S or (hopeless and in_s < WARNING_S) else "warning"


def worse(outlook: Outlook) -> tuple[int, float]:
    """Sorts the most urgent first."""
    return -ORDER.index(outlook.level), outlook.in_s if outlook.in_s is not None else float("inf")


class Ranking:
    """Remembers the level of every outlook, so that one at the edge does not flicker."""

    def __init__(self) -> None:
        self._held: dict[tuple[object, ...], tuple[Outlook, float]] = {}

    def settle(self, outlooks: Sequence[Outlook], now_s: float) -> list[Outlook]:
        """At the levels that are shown, the most urgent first: a level, or a trend that is gone, stays for CALM_S."""
        settled: list[Outlook] = []
        keys: set[tuple[object, ...]] = set()
        for outlook in outlooks:
            key: tuple[object, ...] = (
                outlook.where,
                outlook.kind,
                outlook.rank,
                outlook.step if outlook.kind == "lookahead" else None,
            )
            keys.add(key)
            held, since_s = self._held.get(key, (outlook, now_s))
            if ORDER.index(outlook.level) >= ORDER.index(held.level) or _is_over(since_s, now_s):
                self._held[key] = (outlook, now_s)
            else:
                outlook = msgspec.structs.replace(outlook, level=held.level)
            settled.append(outlook)
        for old, (held, since_s) in list(self._held.items()):
            if old not in keys and (held.kind != "trend" or _is_over(since_s, now_s)):
                del self._held[old]
            elif old not in keys:
                settled.append(held)
        return sorted((outlook for outlook in settled if outlook.level != "ok"), key=worse)


def _is_over(since_s: float, now_s: float) -> bool:
    """Whether it has been calm for long enough; a clock that was put back does not hold an alarm."""
    return not 0 <= now_s - since_s <= CALM_S

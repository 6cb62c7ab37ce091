"""How often the screen is drawn, so that a slow terminal is not buried (pure)."""

from __future__ import annotations

NORMAL_S = 0.5
SLOWEST_S = 4.0
LATE_S = 0.25  # well above what one redraw costs, well below what a person notices


def next_period(period_s: float, late_s: float) -> float:
    """The period after a tick that came `late_s` too late: double it at once, win it back slowly."""
    if late_s > LATE_S:
        return min(SLOWEST_S, period_s * 2)
    return max(NORMAL_S, period_s * 0.8)

"""A line through points of which some are wild, and how sure its slope is."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

Z_80 = 1.2816  # a two-sided interval of 80 %
MAX_CORRELATION = 0.9
SURE_Z, NEARLY_ALL = 4.0, 0.9  # high: every window is looked at again and again, for days


@dataclass(frozen=True)
class Line:
    """`level + slope * (x - at)`, with an 80 % interval of the slope."""

    at: float
    level: float
    slope: float
    slope_low: float
    slope_high: float
    noise: float
    """Median distance of the points from the line."""

    def value(self, x: float) -> float:
        """On the line."""
        return self.level + self.slope * (x - self.at)


def theil_sen(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """The median of the slopes between all pairs of points: up to 29 % of them may be anything.

    The interval is Sen's (Journal of the American Statistical Association 63, 1968), from the ranks of the pairwise
    slopes, widened for points that are not independent of their neighbours by (1 + r) / (1 - r), where r is the
    residuals' correlation with the ones before them. Raises ValueError for fewer than three points.
    """
    count = len(xs)
    if count < 3:
        raise ValueError(f"a line with an interval needs three points, not {count}")
    slopes: list[float] = []
    for place, (x, y) in enumerate(zip(xs, ys, strict=True), start=1):
        later = zip(xs[place:], ys[place:], strict=True)
        slopes += [(other_y - y) / (other_x - x) for other_x, other_y in later if other_x != x]
    slopes.sort()
    slope = _at_rank(slopes, 0.5)
    level = median(y - slope * (x - xs[-1]) for x, y in zip(xs, ys, strict=True))
    residuals = [y - level - slope * (x - xs[-1]) for x, y in zip(xs, ys, strict=True)]
    spread = _spread(count, residuals)
    half = min(0.5, Z_80 * spread / 2 / len(slopes))
    noise = median(map(abs, residuals))
    return Line(xs[-1], level, slope, _at_rank(slopes, 0.5 - half), _at_rank(slopes, 0.5 + half), noise)


def surely_rise(xs: Sequence[float], ys: Sequence[float], line: Line) -> bool:
    """Whether nearly all pairs of points rise, or by SURE_Z standard errors more than fall (Mann and Kendall).

    `line` is about theirs.
    """
    score = rising_pairs(ys)
    error = _spread(len(ys), [y - line.value(x) for x, y in zip(xs, ys, strict=True)])
    return score >= min(NEARLY_ALL * len(ys) * (len(ys) - 1) / 2, SURE_Z * error)


def rising_pairs(ys: Sequence[float]) -> int:
    """How many more pairs of these values rise than fall, in their order."""
    before: list[float] = []
    score = 0
    for y in ys:
        score += bisect_left(before, y) + bisect_right(before, y) - len(before)
        insort(before, y)
    return score


def _spread(count: int, residuals: Sequence[float]) -> float:
    """The standard error of how many more pairs rise than fall; wider where neighbours are alike."""
    correlation = min(MAX_CORRELATION, max(0.0, _lag_one(residuals)))
    return math.sqrt(count * (count - 1) * (2 * count + 5) / 18 * (1 + correlation) / (1 - correlation))


def _at_rank(values: Sequence[float], share: float) -> float:
    """Between the two nearest ranks."""
    place = share * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def _lag_one(values: Sequence[float]) -> float:
    squares = sum(value * value for value in values)
    return sum(a * b for a, b in zip(values, values[1:], strict=False)) / squares if squares else 0.0

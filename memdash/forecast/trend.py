"""Whether the floor of memory rises, and when it would reach the ceiling.

The floor is what memory never falls below again. Peaks, saw-teeth (garbage collection, prefetching, checkpoint saves,
evaluations) and what one step needs stand on it and pass; a leak lifts the floor itself. What is taken for growth must
have gone on through most of a window, so that a start-up, a jump and a cache that has filled up are not.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from itertools import pairwise

from memdash.forecast.robust import Line, surely_rise, theil_sen
from memdash.forecast.teeth import Teeth

POINTS = 32  # of one window
FITS = 1
"""Lines that one question may cost; a window whose turn does not come keeps the line it had, a second or two longer."""
MIN_POINTS = 20
LEVELS = 14  # windows of 32 buckets, each twice as wide as the one before: 16 s to 36 h at half a second
PARTS, RISING_PARTS = 6, 5
MOST_IN_ONE_PART = 0.5
STAIRS, STAIR, ALL_STAIRS, ALIKE = 4, 0.1, 0.9, 1.5
"""So many stairs, each of more than such a share of the rise, all of nearly all of it, none much larger than another."""
SLOWING, STILL = 0.5, 0.25
MIN_SPAN_S = 20.0
BACK_S = 5.0
"""More than readings of one time may come out of order."""
NEWEST = 3  # buckets of half a second
BEHIND, BEHIND_NOISE = 0.1, 4.0
"""Growth has ended when readings are behind by so much of the rise, and by so many times the usual miss."""
GIVEN_BACK, AS_LONG = 0.5, 0.5
"""A rise is a tooth of a saw when so much of it was given back before, in as much of its time."""
AS_HIGH = 0.8  # of the highest peak: as good as it
SURER = 0.5  # of the whole window's relative interval: a shorter window is believed instead
SLACK_NOISE = 2.0  # usual misses by which the halves of a window may differ by chance
UNSTEADY = 0.03
"""How much rates change that look as steady as can be: on the traces that the forecast was tuned on."""


@dataclass
class _Bucket:
    index: int
    time_s: float
    """When it was lowest."""
    step: float
    low: float
    """The floor within the bucket."""
    high: float
    """The highest peak within it."""

    def take_in(self, other: _Bucket) -> None:
        """Be lowest where the lower of the two is."""
        self.high = max(self.high, other.high)
        if other.low < self.low:
            self.low, self.time_s, self.step = other.low, other.time_s, other.step


@dataclass(frozen=True)
class Trend:
    """A floor that rises, fitted over the last `span_s`."""

    line: Line
    """Bytes over seconds of time in which the run was not paused, or over steps."""
    spike_bytes: float
    """How far the highest peaks stand above the floor; the ceiling is hit when floor and spike together reach it."""
    spike_every: float
    """From one such peak to the next, in units of the line's x."""
    span_s: float
    rise_bytes: float
    """What the floor gained within that time."""
    steps: float
    """How many there were in that time."""
    paces_s: tuple[float, float]
    """Seconds a step in the part of it that was the fastest, and in the slowest."""
    to_come_bytes: float
    """What it would still gain if it went on to slow down as it has; infinite where it has not."""

    def reach(self, capacity_bytes: float, now: float) -> tuple[float, float, float]:
        """How far from now, in units of the line's x, the ceiling is hit: earliest, likely, latest of an 80 % interval."""
        line, gap = self.line, capacity_bytes - self.spike_bytes - self.line.value(now)
        wait = min(self.spike_every, self.spike_bytes / line.slope)  # for the next peak once there is no room for it
        return (
            max(0.0, gap - line.noise) / max(line.slope_high, line.slope) * (1 - UNSTEADY),
            max(0.0, gap) / line.slope + wait / 2,
            (max(0.0, gap + line.noise) / line.slope_low * (1 + UNSTEADY) + wait)
            if line.slope_low > 0
            else float("inf"),
        )


class Floor:
    """The floor of one kind of memory, over windows from seconds to days, in bounded memory.

    What grows with every step, whatever the pace, is fitted over steps; all else over time.
    """

    def __init__(self, *, over_steps: bool = False, base_s: float = 0.5) -> None:
        self._over_steps = over_steps
        self._base_s = base_s
        self._begin()

    def _begin(self) -> None:
        self._last_s = -math.inf
        self._levels: list[deque[_Bucket]] = [deque(maxlen=POINTS + 1) for _ in range(LEVELS)]
        self._growths: dict[int, Trend | None] = {}
        """What was found on a level."""
        self._stale: set[int] = set()
        """Levels of which another bucket has filled up since."""
        self._fits_left = 0
        self._teeth = Teeth()

    def add(self, time_s: float, step: float, value: float, peak: float | None = None) -> None:
        """One reading where the step stands lowest, with the peak since the reading before; time without pauses.

        A clock that is put back begins anew: what was read before lies in the future.
        """
        if time_s < self._last_s - BACK_S:
            self._begin()
        self._last_s = time_s
        self._teeth.add(time_s, value)
        high = value if peak is None else max(value, peak)
        self._put(0, _Bucket(int(time_s // self._base_s), time_s, step, value, high))

    def rise_over(self, span_s: float) -> float:
        """Bytes that the lowest readings have gained in that time, or in all there is of it."""
        kept = [buckets for buckets in self._levels if buckets]
        if not kept:
            return 0.0
        widest = max(kept, key=_width_s)
        wide = next((buckets for buckets in kept if _width_s(buckets) >= span_s), widest)
        since_s = wide[-1].time_s - span_s
        first = next((bucket for bucket in reversed(wide) if bucket.time_s <= since_s), wide[0])
        return wide[-1].low - first.low

    def trend(self) -> Trend | None:
        """The growth that goes on now, if any; over the longest window in which it has been steady."""
        self._fits_left = FITS
        for level in reversed(range(LEVELS)):
            growth = self._growth(level)
            if growth is not None:
                growth = self._at_its_present_rate(growth, level)
                if self._goes_on(growth) and not self._is_a_tooth(growth):
                    return growth
        return None

    def _at_its_present_rate(self, growth: Trend, level: int) -> Trend:
        """With the line of a shorter window, and a still shorter one, as long as that tells more."""
        for shorter in reversed(range(level)):
            latest = self._growth(shorter)
            if latest is None or not _tells_more(latest.line, growth.line):
                break
            growth = replace(growth, line=latest.line, to_come_bytes=latest.to_come_bytes)
        return growth

    def _goes_on(self, trend: Trend) -> bool:
        """Whether the newest readings are where the line has them, and not where it has left them behind."""
        newest = list(self._levels[0])[-NEWEST:]
        last = newest[-1]
        ahead = trend.line.value(last.step if self._over_steps else last.time_s) - max(bucket.low for bucket in newest)
        return ahead <= max(BEHIND * trend.rise_bytes, BEHIND_NOISE * trend.line.noise)

    def _growth(self, level: int) -> Trend | None:
        if level in self._stale and self._fits_left:
            self._stale.discard(level)
            full = list(self._levels[level])[:-1]  # the last one is still being filled
            floor = _risen(full)
            self._growths[level] = _growth(full, floor, over_steps=self._over_steps) if floor else None
            self._fits_left -= bool(floor)
        return self._growths.get(level)

    def _put(self, level: int, bucket: _Bucket) -> None:
        """What is full goes on to the next level, where two buckets make one."""
        buckets = self._levels[level]
        last = buckets[-1] if buckets else None
        if last is not None and bucket.index <= last.index:
            last.take_in(bucket)
            return
        buckets.append(bucket)
        self._stale.add(level)
        if last is not None and level + 1 < LEVELS:
            self._put(level + 1, _Bucket(last.index // 2, last.time_s, last.step, last.low, last.high))

    def _is_a_tooth(self, trend: Trend) -> bool:
        """Whether rises as large have been given back before, and took about as long as this one has gone on."""
        return self._teeth.any_like(GIVEN_BACK * trend.rise_bytes, AS_LONG * trend.span_s)


def _width_s(buckets: deque[_Bucket]) -> float:
    return buckets[-1].time_s - buckets[0].time_s


def _tells_more(latest: Line, whole: Line) -> bool:
    """Whether the slope was another lately, or is much surer: the whole window is no single line then."""
    if latest.slope_low > whole.slope_high or latest.slope_high < whole.slope_low:
        return True
    return (latest.slope_high - latest.slope_low) / latest.slope < SURER * (
        whole.slope_high - whole.slope_low
    ) / whole.slope


def _risen(buckets: list[_Bucket]) -> list[float]:
    """The floor of these buckets, when it rose through most of them; otherwise empty."""
    if len(buckets) < MIN_POINTS - 1 or buckets[-1].time_s - buckets[0].time_s < MIN_SPAN_S:
        return []
    floor = envelope([bucket.low for bucket in buckets])
    return floor if rises(floor) or climbs(floor) else []


def _growth(buckets: list[_Bucket], floor: list[float], *, over_steps: bool) -> Trend | None:
    """A line through the floor, when it surely rises."""
    xs = [bucket.step if over_steps else bucket.time_s for bucket in buckets]
    line = theil_sen(xs, floor)
    lows = [bucket.low for bucket in buckets]
    if line.slope_low <= 0 or not (
        climbs(floor) or surely_rise(xs, lows, line)
    ):  # an envelope rises where there is but noise
        return None
    span_s, steps = buckets[-1].time_s - buckets[0].time_s, buckets[-1].step - buckets[0].step
    spike, every = _spikes(buckets, floor, xs, line)
    return Trend(line, spike, every, span_s, floor[-1] - floor[0], steps, _paces_s(buckets), to_come(floor, line.noise))


def _paces_s(buckets: list[_Bucket]) -> tuple[float, float]:
    """Others use the processor, too, and what is to come may be as slow as any part of what has been."""
    edges = [buckets[round(part * (len(buckets) - 1) / PARTS)] for part in range(PARTS + 1)]
    paces = [(b.time_s - a.time_s) / (b.step - a.step) for a, b in pairwise(edges) if b.step > a.step]
    return (min(paces), max(paces)) if paces else (0.0, 0.0)


def to_come(floor: list[float], noise: float) -> float:
    """The sum of what each further half of a window would gain, if the second half's share of the first's stays so."""
    middle = floor[len(floor) // 2]
    first, second = middle - floor[0] - SLACK_NOISE * noise, floor[-1] - middle + SLACK_NOISE * noise
    return second * second / (first - second) if second < first else float("inf")


def _spikes(buckets: list[_Bucket], floor: list[float], xs: list[float], line: Line) -> tuple[float, float]:
    """The highest peak above the floor in the later two thirds, and how far apart peaks nearly as high are."""
    recent = range(len(buckets) // 3, len(buckets))
    grown = line.slope * (xs[-1] - xs[0]) / len(xs)  # within one bucket
    above = [max(0.0, buckets[index].high - floor[index] - grown) for index in recent]
    spike = max(above)
    count = sum(each >= AS_HIGH * spike for each in above)
    return spike, (xs[-1] - xs[recent[0]]) / count


def envelope(values: list[float]) -> list[float]:
    """The highest line below all values that never falls: what was never gone below again.

    What has risen since the last fall is not taken for floor before it has lasted for longer than rises do that fall.
    """
    falls = [index for index in range(1, len(values)) if values[index] < values[index - 1]]
    longest = max((after - before for before, after in pairwise(falls)), default=0)
    last = falls[-1] if falls and len(values) - falls[-1] <= longest else len(values) - 1
    floor, lowest = [], float("inf")
    for value in reversed(values[: last + 1]):
        lowest = min(lowest, value)
        floor.append(lowest)
    return [*floor[::-1], *[values[last]] * (len(values) - 1 - last)]


def rises(floor: list[float]) -> bool:
    """Whether a floor rose in nearly every part of the window, the last one too, in none by most, and is not levelling off."""
    edges = [round(part * (len(floor) - 1) / PARTS) for part in range(PARTS + 1)]
    gains = [floor[end] - floor[start] for start, end in zip(edges, edges[1:], strict=False)]
    total = sum(gains)
    if total <= 0 or max(gains) > MOST_IN_ONE_PART * total:
        return False
    if sum(gain > 0 for gain in gains) < RISING_PARTS or gains[-1] < STILL * total / PARTS:
        return False
    half = PARTS // 2
    return sum(gains[half:]) >= SLOWING * sum(gains[:half])


def climbs(floor: list[float]) -> bool:
    """Whether a floor rose through the whole window in stairs that are alike in height and length."""
    total = floor[-1] - floor[0]
    gains = [after - before for before, after in pairwise(floor)]
    places = [place for place, gain in enumerate(gains) if gain > STAIR * total]
    if len(places) < STAIRS:
        return False
    heights = [gains[place] for place in places]
    lengths = [after - before for before, after in pairwise(places)]
    if sum(heights) < ALL_STAIRS * total or max(heights) > ALIKE * min(heights) or max(lengths) > ALIKE * min(lengths):
        return False
    ends = places[0], len(gains) - 1 - places[-1]
    return min(lengths) > 1 and max(ends) <= max(lengths)

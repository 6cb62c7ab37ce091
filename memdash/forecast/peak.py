"""The peak of a step as a function of what is in it: learnt from every step of this run, and never trusted too far.

What a forward and backward pass keeps grows with the tokens of a micro-batch, and where attention is written out with
their length once more; on it stands what is always there (weights, gradients, optimizer state):

    peak = a + b * micro_batch * longest + c * micro_batch * longest**2,   a, b, c >= 0

The largest of several such sums is not one of them, so only the larger half of the observations is fitted, and beyond
what was observed the interval spans every form of the sum that explains the observations about as well. Where larger
loads do not need more, lengths are not what the memory depends on, and nothing is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter, mul, truediv

from memdash.forecast.robust import rising_pairs

MAX_CELLS = 96
FIRST_CELLS = 8  # different loads, before anything is said of a load that has not been seen
FEW_CELLS, FEW_STEPS, FEW_SPREAD = 4, 24, 2.0
"""Where loads are but a few numbers: so many of them, after so many steps, the largest so many times the smallest."""
EXPLAINED = 0.6
"""How many more pairs of loads must need more for being larger than need less, as a share of all."""
PLAUSIBLE = 1.5  # times the error of the form that fits best
SLACK = 0.005  # of the peak: what allocators round
OVER = 0.25
"""Share of the smaller loads at which a form may need more than was observed, and still be plausible."""
STEEPER = 0.08
"""A peak is the largest of several sums, so large loads need more than the law of small ones says, never less: by as much
of it for each time that they are larger than any load seen. From the traces that the forecast was tuned on."""
MOST_STEEPER = 1.3  # where one says that a step will not fit, rather than that it may not
AGAIN = 1.2  # times the loads of the last fit: time for another
HUBER, ROUNDS = 1.5, 3
FORMS: tuple[tuple[int, ...], ...] = ((0, 1), (0, 2), (0, 1, 2), (1,), (1, 2))

Features = tuple[float, float, float]


@dataclass(frozen=True)
class Estimate:
    """Bytes that a step will need at its peak."""

    low_bytes: float
    likely_bytes: float
    high_bytes: float
    """Ends of an interval meant to hold four times in five."""
    seen: bool
    """Whether a load at least as large was observed; otherwise it is an extrapolation."""
    middle_bytes: float
    """As likely too little as too much, where `likely_bytes` is what the law of smaller loads says."""

    def on(self, floor_bytes: float) -> Estimate:
        """With what is there before the step."""
        low, likely, high = (floor_bytes + each for each in (self.low_bytes, self.likely_bytes, self.high_bytes))
        return Estimate(low, likely, high, self.seen, floor_bytes + self.middle_bytes)


@dataclass(frozen=True)
class _Cell:
    micro_batch: int
    longest: int
    load: int
    row: Features
    peak: float


class PeakModel:
    """One rank's peaks; bounded in memory whatever the length of the run."""

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], _Cell] = {}
        self._forms: list[_Fit] = []
        """Those that explain what was seen, the best first."""
        self._fitted = 0
        """Cells that they were fitted to."""
        self._stale = False
        self._steps = 0
        self._said: dict[tuple[int, int], Estimate | None] = {}
        """Estimates that were asked for, until something new is learnt."""

    def __len__(self) -> int:
        return len(self._cells)

    def add(self, micro_batch: int, longest: int, peak_bytes: float) -> None:
        """One committed step; `longest` is 1 where lengths mean nothing."""
        self._steps += 1
        self._stale = self._stale or self._steps == FEW_STEPS
        longest = max(1, longest)
        key = (micro_batch, _bin(longest))
        cell = self._cells.get(key)
        if cell is not None and peak_bytes <= cell.peak:
            return
        self._said.clear()
        self._cells[key] = _Cell(
            micro_batch, longest, micro_batch * longest, _features(micro_batch, longest), peak_bytes
        )
        self._stale = self._stale or not self._explains(self._cells[key])
        if len(self._cells) > MAX_CELLS:
            del self._cells[min(self._cells, key=lambda each: self._cells[each].load)]

    def refit(self) -> None:
        """Learn from what was added, if the law does not explain it already: what costs most of all, and can wait."""
        if self._stale:
            self._said.clear()
            self._forms, self._fitted, self._stale = self._fit_all(), len(self._cells), False

    def estimate(self, micro_batch: int, longest: int) -> Estimate | None:
        """What a step would need by the last fit; None while too little was seen to say."""
        key = micro_batch, max(1, longest)
        if key not in self._said:
            if len(self._said) >= MAX_CELLS:
                self._said.clear()
            self._said[key] = self._estimate(*key)
        return self._said[key]

    def _estimate(self, micro_batch: int, longest: int) -> Estimate | None:
        largest = max((cell.load for cell in self._cells.values()), default=0)
        above = [
            cell.peak
            for cell in self._cells.values()
            if cell.micro_batch >= micro_batch and cell.longest >= longest  # needs at least as much
        ]
        below = [
            cell.peak for cell in self._cells.values() if cell.micro_batch <= micro_batch and cell.longest <= longest
        ]
        plausible = self._forms
        if not plausible:
            known = max(below, default=0.0)
            return Estimate(known, min(above), min(above), seen=True, middle_bytes=min(above)) if above else None
        features = _features(micro_batch, longest)
        likely = plausible[0].predict(features)
        spread = [fit.predict(features) for fit in plausible]
        beyond = max(1.0, micro_batch * longest / largest)  # a miss grows with the distance
        steeper = 1 + STEEPER * (beyond - 1)
        middle = likely if self._fitted >= 2 * FIRST_CELLS else min(spread)  # chance decides which form fits a few best
        error = max(plausible[0].error * beyond, SLACK * likely)
        floor = max(below, default=0.0)  # nobody needs less than a smaller load did
        return Estimate(
            max(floor, min(spread) - error),
            max(floor, likely),
            max(floor, max(max(spread) + error, likely * steeper)),
            seen=beyond == 1.0,
            middle_bytes=max(floor, middle * (1 + min(steeper, MOST_STEEPER)) / 2),
        )

    def largest_that_fits(self, choices: Sequence[int], longest: int, capacity_bytes: float) -> tuple[int | None, bool]:
        """The largest of these micro-batches whose whole interval lies within the capacity, and True.

        Where there is none: the largest that likely fits, or None, and False.
        """
        likely: int | None = None
        for micro_batch in sorted(choices, reverse=True):
            need = self.estimate(micro_batch, longest)
            if need is None:
                continue
            if need.high_bytes <= capacity_bytes:
                return micro_batch, True
            if need.likely_bytes <= capacity_bytes:
                likely = likely or micro_batch
        return likely, False

    def _explains(self, cell: _Cell) -> bool:
        """Whether a new peak is what the last fit says, and that fit is of nearly as much as is there now."""
        if not self._forms or len(self._cells) > AGAIN * self._fitted:
            return False
        best = self._forms[0]
        miss = abs(best.predict(cell.row) - cell.peak)
        return miss <= max(best.error, SLACK * cell.peak)

    def _fit_all(self) -> list[_Fit]:
        cells = sorted(self._cells.values(), key=attrgetter("load"))
        loads = {cell.load for cell in cells}
        few = len(loads) >= FEW_CELLS and self._steps >= FEW_STEPS and max(loads) >= FEW_SPREAD * min(loads)
        if len(loads) < FIRST_CELLS and not few:
            return []
        rows = [cell.row for cell in cells]
        peaks = [cell.peak for cell in cells]
        if rising_pairs(peaks) < EXPLAINED * len(peaks) * (len(peaks) - 1) / 2:
            return []
        fitted = max(FIRST_CELLS, len(cells) // 3) if len(loads) >= 2 * FIRST_CELLS else len(cells)
        fits = [fit for form in FORMS if (fit := _fit(rows[-fitted:], peaks[-fitted:], form)) is not None]
        fits = [fit for fit in fits if fit.is_below(rows[:-fitted], peaks[:-fitted])]
        fits.sort(key=lambda fit: fit.error)
        return [fit for fit in fits if fit.error <= PLAUSIBLE * fits[0].error + SLACK * peaks[-1]]


@dataclass(frozen=True)
class _Fit:
    weights: Features
    error: float
    """The size that four of five misses stay under."""

    def predict(self, features: Features) -> float:
        always, load, square = self.weights
        return always + load * features[1] + square * features[2]

    def misses(self, rows: Sequence[Features], peaks: Sequence[float]) -> list[float]:
        """How much more each of these needed than it says."""
        always, load, square = self.weights
        return [peak - always - load * x - square * y for (_, x, y), peak in zip(rows, peaks, strict=True)]

    def is_below(self, rows: Sequence[Features], peaks: Sequence[float]) -> bool:
        """Whether it needs no more than these loads did: the largest of several sums is at least as large as each of them."""
        over = [
            peak
            for miss, peak in zip(self.misses(rows, peaks), peaks, strict=True)
            if -miss > max(self.error, SLACK * peak)
        ]
        return len(over) <= OVER * len(rows)


def _features(micro_batch: int, longest: int) -> Features:
    return 1.0, float(micro_batch * longest), float(micro_batch * longest * longest)


def _bin(longest: int) -> int:
    """Lengths that differ by less than a thirty-second share a cell, which keeps the largest peak of them."""
    width = max(1, 1 << max(0, longest.bit_length() - 6))
    return longest // width * width


def _fit(rows: Sequence[Features], peaks: Sequence[float], form: tuple[int, ...]) -> _Fit | None:
    """Least squares with Huber's weights; None when a coefficient would be negative or cannot be told."""
    scale = [max(row[index] for row in rows) for index in form]
    columns = [[row[index] / most for row in rows] for index, most in zip(form, scale, strict=True)]
    trusted, fit, misses = columns, _Fit((0.0, 0.0, 0.0), 0.0), list(peaks)
    for _ in range(ROUNDS):
        matrix = [[sum(map(mul, one, other)) for other in columns] for one in trusted]
        found = solve(matrix, [sum(map(mul, one, peaks)) for one in trusted])
        if found is None or min(found) < 0:
            return None
        weights = dict(zip(form, map(truediv, found, scale), strict=True))
        fit = _Fit((weights.get(0, 0.0), weights.get(1, 0.0), weights.get(2, 0.0)), 0.0)
        misses = list(map(abs, fit.misses(rows, peaks)))
        typical = HUBER * (sorted(misses)[len(misses) // 2] or 1.0)
        trust = [min(1.0, typical / miss) if miss else 1.0 for miss in misses]
        trusted = [list(map(mul, trust, column)) for column in columns]
    misses.sort()
    return replace(fit, error=misses[min(len(misses) - 1, round(0.8 * len(misses)))])


def solve(matrix: list[list[float]], target: list[float]) -> list[float] | None:
    """Gaussian elimination with pivoting; None when it is singular for all practical purposes."""
    size = len(target)
    rows = [[*row, value] for row, value in zip(matrix, target, strict=True)]
    largest = max(abs(value) for row in matrix for value in row)
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(rows[row][column]))
        if abs(rows[pivot][column]) < 1e-9 * largest:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for row in range(column + 1, size):
            factor = rows[row][column] / rows[column][column]
            rows[row] = [a - factor * b for a, b in zip(rows[row], rows[column], strict=True)]
    found = [0.0] * size
    for row in reversed(range(size)):
        known = sum(rows[row][column] * found[column] for column in range(row + 1, size))
        found[row] = (rows[row][size] - known) / rows[row][row]
    return found

"""Trace scaling: the bytes of every storage as a function of batch and length, from three traces (pure).

A storage grows with the batch as batch^i, and with the length as a line or as its square. Fitting the *peak* would not do:
it is the largest of several regimes, and a fit across them is wrong by half. Storages have no regimes, and they come and go
in the same order at every size; where they do not, or where one grows otherwise, nothing is scaled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runner.planning.trace import Script, Sizes, Trace

MAX_POWER = 2  # of the batch: a loss that compares all examples with each other
Point = tuple[int, int]
"""(batch, length)."""


class ScalesOtherwise(Exception):
    """The traces cannot be scaled; the message says why, for a person."""


@dataclass(frozen=True)
class Scaling:
    """Sizes at any batch and length; exact at the traced ones."""

    script: Script
    _at: Point
    _sizes: npt.NDArray[np.float64]
    """Bytes of each storage there."""
    _powers: npt.NDArray[np.int64]
    """Of the batch, for each storage."""
    _slopes: npt.NDArray[np.float64]
    """Bytes for each further unit of length."""
    _is_square: npt.NDArray[np.bool_]
    """Which grow with the square of the length instead."""

    @classmethod
    def fit(cls, traces: Mapping[Point, Trace]) -> Scaling:
        """From one point, the same batch at another length, and another batch at either. Raises ScalesOtherwise."""
        (batch, length), *others = sorted(traces)
        first = traces[batch, length]
        if any(trace.script != first.script for trace in traces.values()):
            raise ScalesOtherwise("the step does other things at other sizes")
        sizes = np.array(first.sizes, dtype=np.float64)
        slopes, is_square = np.zeros(len(sizes)), np.zeros(len(sizes), dtype=bool)
        powers = np.zeros(len(sizes), dtype=np.int64)
        for size, other in others:
            there = np.array(traces[size, other].sizes, dtype=np.float64)
            if size == batch:
                slopes = (there - sizes) / (other - length)
                is_square = (slopes != 0) & (there * length**2 == sizes * other**2)
            else:
                powers = _powers(np.array(traces[batch, other].sizes, dtype=np.float64), there, size / batch)
        return cls(first.script, (batch, length), sizes, powers, slopes, is_square)

    def sizes(self, batch: int, length: int) -> Sizes:
        """Bytes of each storage."""
        at_batch, at_length = self._at
        line = self._sizes + self._slopes * (length - at_length)
        square = self._sizes * (length / at_length) ** 2
        sizes = np.where(self._is_square, square, line) * (batch / at_batch) ** self._powers
        rounded: Sizes = np.maximum(np.rint(sizes), 0).astype(np.int64)
        return rounded


def _powers(small: npt.NDArray[np.float64], large: npt.NDArray[np.float64], ratio: float) -> npt.NDArray[np.int64]:
    """i, where large = small * ratio^i."""
    powers = np.full(len(small), -1, dtype=np.int64)
    for power in range(MAX_POWER + 1):
        powers[np.isclose(small * ratio**power, large, rtol=1e-9, atol=0)] = power
    if (powers < 0).any():
        odd = int((powers < 0).argmax())
        raise ScalesOtherwise(
            f"a tensor grows from {small[odd]:.0f} to {large[odd]:.0f} bytes with {ratio:g} times the batch"
        )
    return powers

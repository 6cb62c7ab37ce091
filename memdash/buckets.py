"""A series of any length in bounded memory: min, max and last of time buckets (pure).

Buckets are aligned to absolute time, so that two processes that bucket the same samples get the same buckets, and a plot
that moves on by one bucket changes by one column. When there are too many, the width doubles and neighbours
merge: no spike is ever lost, only its place in time gets coarser.
"""

from __future__ import annotations

import math
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import lt

BASE_BUCKET_S = 0.25
MAX_BUCKETS = 4096  # 17 minutes at the base width; 12 hours at 16 s
_PACKED = struct.Struct("<dQ")  # width and number of buckets; their four columns follow


Columns = tuple[list[int], list[float], list[float], list[float]]
"""Index, minimum, maximum and last of some buckets."""


@dataclass(slots=True)
class Bucket:
    """What happened in one span of time."""

    minimum: float
    maximum: float
    last: float

    def add(self, minimum: float, maximum: float, last: float) -> None:
        """Take in what came later."""
        self.minimum = min(self.minimum, minimum)
        self.maximum = max(self.maximum, maximum)
        self.last = last


class BucketSeries:
    """One series; samples may come slightly out of order. The buckets lie in columns, 32 bytes each."""

    def __init__(self, bucket_s: float = BASE_BUCKET_S, max_buckets: int = MAX_BUCKETS) -> None:
        self.bucket_s = bucket_s
        self._max_buckets = max_buckets
        self._index = array("q")
        self._minimum, self._maximum, self._last = array("d"), array("d"), array("d")

    def __len__(self) -> int:
        return len(self._index)

    @property
    def last(self) -> float | None:
        """The newest value."""
        return self._last[-1] if self._last else None

    @property
    def span_s(self) -> tuple[float, float] | None:
        """Unix time of the first bucket's start and the last bucket's end."""
        if not self._index:
            return None
        return self._index[0] * self.bucket_s, (self._index[-1] + 1) * self.bucket_s

    def add(self, time_s: float, value: float) -> None:
        """Take in one sample."""
        self._put(int(time_s // self.bucket_s), value, value, value)

    def extend(self, times: Iterable[float], values: Iterable[float]) -> None:
        """Take in many samples, leaving out those that are NaN; the same as `add` for each, in less than half the time."""
        width, current = self.bucket_s, None
        low = high = last = 0.0
        for time_s, value in zip(times, values, strict=True):
            if value != value:
                continue
            index = time_s // width
            if index == current:
                last = value
                if value < low:
                    low = value
                elif value > high:
                    high = value
                continue
            if current is not None:
                self._put(int(current), low, high, last)
                if self.bucket_s != width:
                    width = self.bucket_s
                    index = time_s // width
            current, low, high, last = index, value, value, value
        if current is not None:
            self._put(int(current), low, high, last)

    def merge(
        self,
        bucket_s: float,
        buckets: Sequence[int],
        minimum: Sequence[float],
        maximum: Sequence[float],
        last: Sequence[float],
    ) -> None:
        """Take in buckets made elsewhere; the wider of the two widths holds afterwards."""
        while self.bucket_s < bucket_s:
            self._double()
        if self.bucket_s == bucket_s and self._follow(buckets):
            self._index.extend(buckets)
            self._minimum.extend(minimum)
            self._maximum.extend(maximum)
            self._last.extend(last)
            while len(self._index) > self._max_buckets:
                self._double()
            return
        for index, low, high, end in zip(buckets, minimum, maximum, last, strict=True):
            self._put(int(index * bucket_s // self.bucket_s), low, high, end)

    def items(self) -> list[tuple[int, Bucket]]:
        """Index and bucket, oldest first."""
        columns = zip(self._index, self._minimum, self._maximum, self._last, strict=True)
        return [(index, Bucket(low, high, end)) for index, low, high, end in columns]

    def columns(self, start_s: float, end_s: float, count: int) -> list[Bucket | None]:
        """The span cut into `count` equal columns; None where nothing was recorded."""
        columns: list[Bucket | None] = [None] * count
        width_s = (end_s - start_s) / count
        for index, bucket in self.items():
            column = int((index * self.bucket_s - start_s) // width_s)
            if 0 <= column < count:
                there = columns[column]
                if there is None:
                    columns[column] = bucket
                else:
                    there.add(bucket.minimum, bucket.maximum, bucket.last)
        return columns

    def slices(self, size: int, before_s: float = math.inf) -> Iterator[Columns]:
        """The buckets that end before a time, at most `size` of them at once."""
        stop = len(self)
        if self._index and (self._index[-1] + 1) * self.bucket_s > before_s:
            stop = bisect_left(self._index, int(before_s // self.bucket_s))
        for start in range(0, stop, size):
            part = slice(start, min(stop, start + size))
            yield (
                self._index[part].tolist(),
                self._minimum[part].tolist(),
                self._maximum[part].tolist(),
                self._last[part].tolist(),
            )

    def pack(self) -> bytes:
        """All buckets as bytes, in the order of this machine."""
        head = _PACKED.pack(self.bucket_s, len(self))
        columns = (self._index, self._minimum, self._maximum, self._last)
        return head + b"".join(column.tobytes() for column in columns)

    def unpack(self, data: bytes) -> None:
        """Become what was packed. Raises ValueError, having changed nothing, when it is not that."""
        if len(data) < _PACKED.size:
            raise ValueError("packed buckets without a head")
        bucket_s, count = _PACKED.unpack_from(data)
        edges = [_PACKED.size + 8 * count * column for column in range(5)]
        if len(data) != edges[-1]:
            raise ValueError(f"{len(data)} bytes for {count} packed buckets")
        parts = [data[start:stop] for start, stop in pairwise(edges)]
        self.bucket_s = bucket_s
        self._index = array("q", parts[0])
        self._minimum, self._maximum, self._last = (array("d", part) for part in parts[1:])

    def _follow(self, buckets: Sequence[int]) -> bool:
        """Whether these come one after the other, and after all there are."""
        return all(map(lt, buckets, buckets[1:])) and not (self._index and buckets and buckets[0] <= self._index[-1])

    def _put(self, index: int, minimum: float, maximum: float, last: float) -> None:
        indices = self._index
        at = len(indices)
        if at and index <= indices[-1]:
            at = at - 1 if index == indices[-1] else bisect_left(indices, index)
            if indices[at] == index:
                if minimum < self._minimum[at]:
                    self._minimum[at] = minimum
                if maximum > self._maximum[at]:
                    self._maximum[at] = maximum
                self._last[at] = last
                return
        indices.insert(at, index)
        self._minimum.insert(at, minimum)
        self._maximum.insert(at, maximum)
        self._last.insert(at, last)
        while len(self._index) > self._max_buckets:
            self._double()

    def _double(self) -> None:
        self.bucket_s *= 2
        old = zip(self._index, self._minimum, self._maximum, self._last, strict=True)
        index, minimum, maximum, last = array("q"), array("d"), array("d"), array("d")
        there = None
        for number, low, high, end in old:
            half = number >> 1
            if half == there:
                if low < minimum[-1]:
                    minimum[-1] = low
                if high > maximum[-1]:
                    maximum[-1] = high
                last[-1] = end
                continue
            there = half
            index.append(half)
            minimum.append(low)
            maximum.append(high)
            last.append(end)
        self._index, self._minimum, self._maximum, self._last = index, minimum, maximum, last

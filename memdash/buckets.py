"""A series of any length in bounded memory: min, max and last of time buckets (pure).

Buckets are aligned to absolute time, so that two processes that bucket the same samples get the same buckets, and a plot
that moves on by one bucket changes by one column. When there are too many, the width doubles and neighbours
merge: no spike is ever lost, only its place in time gets coarser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BASE_BUCKET_S = 0.25
MAX_BUCKETS = 4096  # 17 minutes at the base width; 12 hours at 16 s


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
    """One series; samples may come slightly out of order."""

    def __init__(self, bucket_s: float = BASE_BUCKET_S, max_buckets: int = MAX_BUCKETS) -> None:
        self.bucket_s = bucket_s
        self._max_buckets = max_buckets
        self._buckets: dict[int, Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    @property
    def last(self) -> float | None:
        """The newest value."""
        return self._buckets[max(self._buckets)].last if self._buckets else None

    @property
    def span_s(self) -> tuple[float, float] | None:
        """Unix time of the first bucket's start and the last bucket's end."""
        if not self._buckets:
            return None
        return min(self._buckets) * self.bucket_s, (max(self._buckets) + 1) * self.bucket_s

    def add(self, time_s: float, value: float) -> None:
        """Take in one sample."""
        self._put(int(time_s // self.bucket_s), value, value, value)

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
        for index, low, high, end in zip(buckets, minimum, maximum, last, strict=True):
            self._put(int(index * bucket_s // self.bucket_s), low, high, end)

    def items(self) -> list[tuple[int, Bucket]]:
        """Index and bucket, oldest first."""
        return sorted(self._buckets.items())

    def columns(self, start_s: float, end_s: float, count: int) -> list[Bucket | None]:
        """The span cut into `count` equal columns; None where nothing was recorded."""
        columns: list[Bucket | None] = [None] * count
        width_s = (end_s - start_s) / count
        for index, bucket in self.items():
            column = int((index * self.bucket_s - start_s) // width_s)
            if 0 <= column < count:
                there = columns[column]
                if there is None:
                    columns[column] = Bucket(bucket.minimum, bucket.maximum, bucket.last)
                else:
                    there.add(bucket.minimum, bucket.maximum, bucket.last)
        return columns

    def _put(self, index: int, minimum: float, maximum: float, last: float) -> None:
        there = self._buckets.get(index)
        if there is None:
            self._buckets[index] = Bucket(minimum, maximum, last)
            while len(self._buckets) > self._max_buckets:
                self._double()
        else:
            there.add(minimum, maximum, last)

    def _double(self) -> None:
        self.bucket_s *= 2
        old, self._buckets = sorted(self._buckets.items()), {}
        for index, bucket in old:
            there = self._buckets.get(index // 2)
            if there is None:
                self._buckets[index // 2] = bucket
            else:
                there.add(bucket.minimum, bucket.maximum, bucket.last)

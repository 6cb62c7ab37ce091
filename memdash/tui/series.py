"""Recorded series as columns of a plot (pure).

Columns are aligned to absolute time and their widths are multiples of the buckets', so that a plot changes by
whole columns and looks the same in two dashboards. A column keeps minimum and maximum: no spike is lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from memdash import wire
from memdash.buckets import BASE_BUCKET_S, Bucket, BucketSeries

MIN_SPAN_S = 20.0  # a run of two seconds still gets an axis on which something can be read
SMOOTHED_OVER, SMOOTHED_WEIGHT = 60, 0.1
FINE_BUCKETS = 2400  # the last ten minutes at the base width, for a short window on a long run


@dataclass(frozen=True)
class Window:
    """The time axis of a plot: `count` columns of `width_s`, the first one number `start` since the epoch."""

    start: int
    width_s: float
    count: int
    origin_s: float
    """Unix time of elapsed 0."""
    settled: int
    """Columns before this one hold all that they ever will."""

    def elapsed_s(self, column: float) -> float:
        """Seconds since the origin at the left edge of a column."""
        return (self.start + column) * self.width_s - self.origin_s


def column_width(span_s: float, count: int) -> float:
    """The smallest of 0.25, 0.5 ... 1, 1.25, 1.5, 1.75, 2, 2.5 ... seconds with which `count` columns cover the span.

    Four to seven times a power of two: each is a multiple of any bucket that is not far too wide for it.
    """
    wanted = max(1.0, span_s / max(1, count) / BASE_BUCKET_S)
    if wanted <= 4:
        return BASE_BUCKET_S * math.ceil(wanted)
    power = 2.0 ** max(0, math.floor(math.log2(wanted)) - 2)
    return BASE_BUCKET_S * power * math.ceil(wanted / power)


def window(origin_s: float, now_s: float, span_s: float | None, count: int) -> Window:
    """The last `span_s` seconds, or all since the origin; a younger run starts at the left edge."""
    elapsed = max(now_s - origin_s, MIN_SPAN_S)
    span = elapsed if span_s is None else min(elapsed, span_s)
    width = column_width(span, count - 1)
    first, last = math.floor(origin_s / width), math.floor(now_s / width)
    start = max(first, last - count + 1)
    return Window(start, width, count, origin_s, settled=last - start)


class Track:
    """One series, and its columns at the width that was last asked for."""

    def __init__(self) -> None:
        self._whole = BucketSeries()
        self._fine: dict[int, Bucket] = {}
        self._columns: dict[int, Bucket] = {}
        self._width_s = 0.0
        self.maximum: float | None = None
        """The highest value ever."""

    @property
    def last(self) -> float | None:
        """The newest value."""
        return self._whole.last

    def newest(self, count: int) -> list[Bucket]:
        """The last buckets, oldest first."""
        return [bucket for _, bucket in self._whole.items()[-count:]]

    def add(self, time_s: float, value: float) -> None:
        """Take in one sample."""
        if not math.isfinite(value):
            return
        self._whole.add(time_s, value)
        _put(self._fine, time_s, BASE_BUCKET_S, Bucket(value, value, value))
        self._forget_fine()
        if self._width_s:
            _put(self._columns, time_s, self._width_s, Bucket(value, value, value))
        self.maximum = value if self.maximum is None else max(self.maximum, value)

    def merge(self, history: wire.SeriesHistory) -> None:
        """Take in what was recorded before we came."""
        self._whole.merge(history.bucket_s, history.buckets, history.minimum, history.maximum, history.last)
        self._width_s = 0.0
        if history.bucket_s == BASE_BUCKET_S:
            self._merge_fine(history)
        self.maximum = max((*history.maximum, *([] if self.maximum is None else [self.maximum])), default=None)

    def columns(self, window: Window) -> list[Bucket | None]:
        """What each column of the window holds; None where nothing was recorded."""
        if window.width_s != self._width_s or len(self._columns) > 4 * window.count:
            self._rebuild(window)
        return [self._columns.get(window.start + index) for index in range(window.count)]

    def _merge_fine(self, history: wire.SeriesHistory) -> None:
        """What a long series will soon have in wide buckets only."""
        fine = self._fine
        for index, *figures in zip(history.buckets, history.minimum, history.maximum, history.last, strict=True):
            if index in fine:
                fine[index].add(*figures)
            else:
                fine[index] = Bucket(*figures)
        self._forget_fine()

    def _forget_fine(self) -> None:
        if len(self._fine) > 2 * FINE_BUCKETS:
            self._fine = dict(sorted(self._fine.items())[-FINE_BUCKETS:])

    def _rebuild(self, window: Window) -> None:
        """The whole series at another width; where its buckets have grown too wide, the fine ones stand in."""
        self._width_s, self._columns = window.width_s, {}
        coarse = self._whole.bucket_s > window.width_s and bool(self._fine)
        fine_from_s = min(self._fine) * BASE_BUCKET_S if coarse else math.inf
        for index, bucket in self._whole.items():
            if (index + 1) * self._whole.bucket_s <= fine_from_s:
                _put(self._columns, index * self._whole.bucket_s, window.width_s, bucket)
        if coarse:
            for index, bucket in sorted(self._fine.items()):
                _put(self._columns, index * BASE_BUCKET_S, window.width_s, bucket)
        if len(self._columns) > 2 * window.count:
            self._columns = {index: bucket for index, bucket in self._columns.items() if index >= window.start}


def smoothed_last(track: Track) -> float | None:
    """The end of a noisy series as the eye sees it: the mean of the last buckets, the newest weighing most."""
    mean = None
    for bucket in track.newest(SMOOTHED_OVER):
        middle = (bucket.minimum + bucket.maximum) / 2
        mean = middle if mean is None else mean + SMOOTHED_WEIGHT * (middle - mean)
    return mean


def _put(columns: dict[int, Bucket], time_s: float, width_s: float, bucket: Bucket) -> None:
    index = math.floor(time_s / width_s)
    there = columns.get(index)
    if there is None:
        columns[index] = Bucket(bucket.minimum, bucket.maximum, bucket.last)
    else:
        there.add(bucket.minimum, bucket.maximum, bucket.last)


class SeriesStore:
    """Every series of one run by name, named as in wire.SeriesHistory."""

    def __init__(self) -> None:
        self._tracks: dict[str, Track] = {}

    def __getitem__(self, name: str) -> Track:
        return self._tracks.setdefault(name, Track())

    def names(self) -> list[str]:
        """The series that there are."""
        return sorted(self._tracks)

    def take(self, message: wire.FromSupervisor) -> None:
        """Add what a message has to say about any series."""
        if isinstance(message, wire.SeriesHistory):
            self[message.series].merge(message)
        elif isinstance(message, wire.HostSample):
            self._add_host(message)
        elif isinstance(message, wire.StepReport | wire.MemorySample):
            self._add_device(message)
            if isinstance(message, wire.StepReport) and message.rank == 0:
                self._add_step(message)

    def tightest_rank(self) -> int:
        """The rank whose device has come closest to full, judged by its highest peak; 0 when none has said."""
        peaks = {
            int(name.split(".")[1]): track.maximum or 0.0
            for name, track in self._tracks.items()
            if name.startswith("device.") and name.endswith(".peak")
        }
        return max(sorted(peaks), key=lambda rank: peaks[rank], default=0)

    def _add_host(self, sample: wire.HostSample) -> None:
        working_set = self["host.working_set"]
        working_set.add(sample.time_s, max(sample.host.working_set_bytes, sample.host.peak_working_set_bytes))
        working_set.add(sample.time_s, sample.host.working_set_bytes)
        self["host.process"].add(sample.time_s, sample.host.process_bytes)

    def _add_device(self, sample: wire.StepReport | wire.MemorySample) -> None:
        if sample.memory is None:
            return
        figures = {
            "allocated": sample.memory.allocated_bytes,
            "reserved": sample.memory.reserved_bytes,
            # a peak is a step's; between steps it would only show a dip
            "peak": sample.memory.peak_allocated_bytes if isinstance(sample, wire.StepReport) else None,
        }
        for name, figure in figures.items():
            if figure is not None:
                self[f"device.{sample.rank}.{name}"].add(sample.time_s, figure)

    def _add_step(self, report: wire.StepReport) -> None:
        if report.loss is not None:
            self["loss"].add(report.time_s, report.loss)
        if report.step_time_s > 0:
            self["step_time_s"].add(report.time_s, report.step_time_s)

"""A whole run on one axis of time: its attempts end to end, the gaps between them left out; curves, and what happened (pure)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from memdash import wire
from memdash.buckets import BucketSeries

Row = Mapping[str, float | None]
MarkKind = Literal["full", "light", "oom"]

MAX_POINTS = 1500  # of one curve in one attempt: more than a page can show
HOST_CURVES = {"host.working_set": "peak_working_set_bytes", "host.process": "process_bytes"}
RANK_CURVES = {
    "device.allocated": "allocated_bytes",
    "device.reserved": "reserved_bytes",
    "device.peak": "peak_allocated_bytes",
    "loss": "loss",
    "micro_batch": "micro_batch",
}
OF_STEPS = (
    "device.peak",
    "loss",
    "micro_batch",
)  # a reading between two steps has a peak of its own, which says nothing
BREAK = 10  # times the usual distance between two points: there the run was paused, or busy with something else
_ENDED = re.compile(r"(?:attempt \d+ )?(finished|stopped|failed|oom|killed|lost)\b")


@dataclass
class Launch:
    """One attempt as a stretch of the axis."""

    attempt: int
    began_s: float
    """Unix time of its first sample, and of its last."""
    ended_s: float
    at_s: float = 0.0
    """Where it begins on the axis."""
    first_step: int | None = None
    last_step: int = 0
    outcome: str = ""
    """A final status; empty while it goes on, and where nobody saw the end."""

    @property
    def length_s(self) -> float:
        """Its part of the axis."""
        return self.ended_s - self.began_s

    def place(self, time_s: float) -> float:
        """Where a moment of it lies on the axis."""
        return self.at_s + min(max(0.0, time_s - self.began_s), self.length_s)


@dataclass
class Curve:
    """Lowest, highest and last value of each small span; NaN where the line breaks: between attempts, and in a pause."""

    at_s: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Mark:
    """Something that happened at one moment."""

    at_s: float
    kind: MarkKind


@dataclass
class Timeline:
    """All that a picture of a run needs; of several ranks the first."""

    launches: list[Launch]
    curves: dict[str, Curve]
    """Only those of which something was recorded: HOST_CURVES and RANK_CURVES."""
    capacity_bytes: dict[str, float]
    """`host` and `device`, the lowest of the whole run."""
    marks: list[Mark]

    @property
    def length_s(self) -> float:
        """Of the whole axis."""
        return sum(launch.length_s for launch in self.launches)


def make_timeline(
    state: wire.RunState,
    journal: Sequence[wire.JournalEntry],
    hosts: Iterable[Row],
    ranks: Iterable[tuple[int, Row]],
) -> Timeline:
    """Reads every row once; what it keeps of them is bounded."""
    launches: dict[int, Launch] = {}
    series: dict[str, dict[int, BucketSeries]] = {}
    capacity: dict[str, float] = {}
    for row in hosts:
        _take(row, "host", HOST_CURVES, launches, series, capacity)
    for rank, row in ranks:
        if rank == 0:
            _count_step(_take(row, "device", RANK_CURVES, launches, series, capacity), row)
    _end(launches, journal, state)
    ordered = [launches[number] for number in sorted(launches)]
    at_s = 0.0
    for launch in ordered:
        launch.at_s, at_s = at_s, at_s + launch.length_s
    curves = {name: _curve(by_attempt, ordered) for name, by_attempt in series.items()}
    return Timeline(ordered, curves, capacity, _marks(journal, launches))


def _take(
    row: Row,
    where: str,
    columns: Mapping[str, str],
    launches: dict[int, Launch],
    series: dict[str, dict[int, BucketSeries]],
    capacity: dict[str, float],
) -> Launch:
    time_s, number = row["time_s"] or 0.0, int(row["attempt"] or 0)
    launch = launches.setdefault(number, Launch(number, time_s, time_s))
    launch.began_s, launch.ended_s = min(launch.began_s, time_s), max(launch.ended_s, time_s)
    if limit := row.get("capacity_bytes"):
        capacity[where] = min(limit, capacity.get(where, math.inf))
    is_step = row.get("micro_batch") is not None
    for name, column in columns.items():
        value = row.get(column)
        if value is not None and math.isfinite(value) and (is_step or name not in OF_STEPS):
            by_attempt = series.setdefault(name, {})
            if number not in by_attempt:
                by_attempt[number] = BucketSeries(max_buckets=MAX_POINTS)
            by_attempt[number].add(time_s, value)
    return launch


def _count_step(launch: Launch, row: Row) -> None:
    if row.get("micro_batch") is not None and (step := row.get("step")) is not None:
        launch.first_step = int(step) if launch.first_step is None else launch.first_step
        launch.last_step = max(launch.last_step, int(step))


def _curve(by_attempt: dict[int, BucketSeries], launches: Sequence[Launch]) -> Curve:
    curve = Curve()
    for launch in launches:
        if (buckets := by_attempt.get(launch.attempt)) is None:
            continue
        if curve.at_s:
            _point(curve, launch.at_s, math.nan, math.nan, math.nan)
        items = buckets.items()
        gaps = sorted(after - before for (before, _), (after, _) in pairwise(items))
        longest = BREAK * gaps[len(gaps) // 2] if gaps else 0
        there = items[0][0]
        for index, bucket in items:
            at_s = launch.place((index + 0.5) * buckets.bucket_s)
            if index - there > longest:
                _point(curve, at_s, math.nan, math.nan, math.nan)
            _point(curve, at_s, bucket.minimum, bucket.maximum, bucket.last)
            there = index
    return curve


def _point(curve: Curve, at_s: float, low: float, high: float, last: float) -> None:
    curve.at_s.append(at_s)
    curve.low.append(low)
    curve.high.append(high)
    curve.last.append(last)


def _marks(journal: Iterable[wire.JournalEntry], launches: dict[int, Launch]) -> list[Mark]:
    marks = []
    for entry in journal:
        launch = launches.get(entry.attempt)
        if launch is not None and (kind := _kind(entry)):
            marks.append(Mark(launch.place(entry.time_s), kind))
    return marks


def _kind(entry: wire.JournalEntry) -> MarkKind | None:
    if entry.kind == "oom":
        return "oom"
    if entry.kind == "checkpoint":
        return "full" if entry.text.startswith("full") else "light"
    return None


def _end(launches: dict[int, Launch], journal: Iterable[wire.JournalEntry], state: wire.RunState) -> None:
    for entry in journal:
        launch = launches.get(entry.attempt)
        if launch is not None and entry.kind == "state" and (found := _ENDED.match(entry.text)):
            launch.outcome = found[1]
    if state.attempt in launches:
        launches[state.attempt].outcome = state.status if state.status in wire.FINAL_STATUSES else ""

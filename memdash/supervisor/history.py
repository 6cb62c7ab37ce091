"""All series of a run in bounded memory, for dashboards that attach late (pure).

A source is what has a record file of its own: `host`, `rank-0`, `rank-1` ... Each series comes from one source.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, compress

from memdash import wire
from memdash.buckets import BASE_BUCKET_S, MAX_BUCKETS, BucketSeries

CHUNK_BUCKETS = 2048  # one message: about 150 kB

HOST_SERIES = {"host.working_set": "working_set_bytes", "host.process": "process_bytes"}
DEVICE_SERIES = {"allocated": "allocated_bytes", "reserved": "reserved_bytes"}
STEP_SERIES = {
    "loss": "loss",
    "learning_rate": "learning_rate",
    "step_time_s": "step_time_s",
    "micro_batch": "micro_batch",
    "step": "step",
}
RECIPE = [HOST_SERIES, DEVICE_SERIES, "peak", STEP_SERIES, BASE_BUCKET_S, MAX_BUCKETS, sys.byteorder]
"""What was packed by another recipe, of another memdash or machine, cannot be unpacked."""

Row = Mapping[str, float | None]
Columns = Mapping[str, Sequence[float]]
"""Rows, a column each; NaN where a figure is missing."""


class History:
    """One BucketSeries per name, filled live or from a run's files."""

    def __init__(self) -> None:
        self._series: dict[str, dict[str, BucketSeries]] = {}
        """By source."""
        self.rows: dict[str, int] = {}
        """Rows that were taken in, of each source."""

    @staticmethod
    def draws(source: str) -> bool:
        """Whether there is a series of this source."""
        return source == "host" or source.startswith("rank-")

    def host(self, time_s: float, row: Row) -> None:
        """Take in one host sample; a peak between two samples widens its bucket."""
        self._count("host")
        for series, field in HOST_SERIES.items():
            self._add("host", series, time_s, row.get(field))
        self._add("host", "host.working_set", time_s, row.get("peak_working_set_bytes"))
        self._add("host", "host.working_set", time_s, row.get("working_set_bytes"))

    def load(self, source: str, columns: Columns) -> None:
        """Take in rows of one source, oldest first; the loss and the like come from rank 0."""
        self._count(source, len(columns["time_s"]))
        if source == "host":
            self._load_host(columns)
        else:
            self._load_rank(source, columns)

    def messages(self, before_s: float = math.inf) -> Iterator[wire.SeriesHistory]:
        """Everything, or the buckets that end before a time, in messages under the frame limit."""
        for source in self._series.values():
            for name, series in source.items():
                for buckets, minimum, maximum, last in series.slices(CHUNK_BUCKETS, before_s):
                    yield wire.SeriesHistory(
                        series=name,
                        bucket_s=series.bucket_s,
                        buckets=buckets,
                        minimum=minimum,
                        maximum=maximum,
                        last=last,
                    )

    def widest_s(self) -> float:
        """Width of the widest buckets, of which all others are a part."""
        return max((series.bucket_s for source in self._series.values() for series in source.values()), default=0.0)

    def pack(self, source: str) -> bytes:
        """All that was made of one source's rows, for `unpack`."""
        packed = {name: series.pack() for name, series in self._series.get(source, {}).items()}
        sizes = [[name, len(data)] for name, data in packed.items()]
        return json.dumps([RECIPE, sizes]).encode() + b"\n" + b"".join(packed.values())

    def unpack(self, source: str, rows: int, data: bytes) -> None:
        """Take in what was packed, in place of the rows. Raises ValueError, having changed nothing."""
        head, _, body = data.partition(b"\n")
        recipe, sizes = json.loads(head)
        if recipe != RECIPE:
            raise ValueError("packed by another recipe")
        series, start = {}, 0
        for name, size in sizes:
            series[name] = BucketSeries()
            series[name].unpack(body[start : start + size])
            start += size
        self._series[source], self.rows[source] = series, rows

    def _load_host(self, columns: Columns) -> None:
        times = columns["time_s"]
        both = zip(columns["peak_working_set_bytes"], columns["working_set_bytes"], strict=True)
        twice = chain.from_iterable(zip(times, times, strict=True))
        self._extend("host", "host.working_set", twice, chain.from_iterable(both))
        self._extend("host", "host.process", times, columns["process_bytes"])

    def _load_rank(self, source: str, columns: Columns) -> None:
        times, rank = columns["time_s"], source.removeprefix("rank-")
        for series, field in DEVICE_SERIES.items():
            self._extend(source, f"device.{rank}.{series}", times, columns[field])
        steps = [step_time_s == step_time_s for step_time_s in columns["step_time_s"]]
        times = list(compress(times, steps))
        figures = {f"device.{rank}.peak": "peak_allocated_bytes", **(STEP_SERIES if rank == "0" else {})}
        for series, field in figures.items():
            self._extend(source, series, times, compress(columns[field], steps))

    def _count(self, source: str, rows: int = 1) -> None:
        self.rows[source] = self.rows.get(source, 0) + rows

    def _add(self, source: str, name: str, time_s: float, value: float | None) -> None:
        if value is not None:
            self._named(source, name).add(time_s, value)

    def _extend(self, source: str, name: str, times: Iterable[float], values: Iterable[float]) -> None:
        self._named(source, name).extend(times, values)

    def _named(self, source: str, name: str) -> BucketSeries:
        of_source = self._series.setdefault(source, {})
        if name not in of_source:
            of_source[name] = BucketSeries()
        return of_source[name]

"""All series of a run in bounded memory, for dashboards that attach late (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from memdash import wire
from memdash.buckets import BucketSeries

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

Row = Mapping[str, float | None]


class History:
    """One BucketSeries per name, filled live or from a run's files."""

    def __init__(self) -> None:
        self._series: dict[str, BucketSeries] = {}

    def host(self, time_s: float, row: Row) -> None:
        """Take in one host sample; a peak between two samples widens its bucket."""
        for series, field in HOST_SERIES.items():
            self._add(series, time_s, row.get(field))
        self._add("host.working_set", time_s, row.get("peak_working_set_bytes"))
        self._add("host.working_set", time_s, row.get("working_set_bytes"))

    def rank(self, rank: int, time_s: float, row: Row) -> None:
        """Take in one row of a rank; the loss and the like come from rank 0."""
        for series, field in DEVICE_SERIES.items():
            self._add(f"device.{rank}.{series}", time_s, row.get(field))
        if row.get("step_time_s") is None:
            return  # a reading between steps: its peak is no step's
        self._add(f"device.{rank}.peak", time_s, row.get("peak_allocated_bytes"))
        if rank == 0:
            for series, field in STEP_SERIES.items():
                self._add(series, time_s, row.get(field))

    def messages(self) -> Iterator[wire.SeriesHistory]:
        """Everything, in messages under the frame limit."""
        for name, series in self._series.items():
            items = series.items()
            for start in range(0, len(items), CHUNK_BUCKETS):
                chunk = items[start : start + CHUNK_BUCKETS]
                yield wire.SeriesHistory(
                    series=name,
                    bucket_s=series.bucket_s,
                    buckets=[index for index, _ in chunk],
                    minimum=[bucket.minimum for _, bucket in chunk],
                    maximum=[bucket.maximum for _, bucket in chunk],
                    last=[bucket.last for _, bucket in chunk],
                )

    def load(self, hosts: Iterable[Row], ranks: Iterable[tuple[int, Row]]) -> None:
        """Take in what a run has recorded."""
        for row in hosts:
            self.host(row["time_s"] or 0.0, row)
        for rank, row in ranks:
            self.rank(rank, row["time_s"] or 0.0, row)

    def _add(self, name: str, time_s: float, value: float | None) -> None:
        if value is not None:
            self._series.setdefault(name, BucketSeries()).add(time_s, value)

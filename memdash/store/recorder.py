"""Telemetry into a run's files, and back out again. A full disk costs samples, never the run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from memdash import wire
from memdash.store.journal import Journal
from memdash.store.lines import LineWriter
from memdash.store.moments import Moment, MomentWriter
from memdash.store.run_directory import RunDirectory
from memdash.store.samples import SampleReader, SampleWriter, read_rows

HOST_COLUMNS = (
    "time_s",
    "attempt",
    "process_bytes",
    "num_processes",
    "working_set_bytes",
    "peak_working_set_bytes",
    "capacity_bytes",
)
GPU_COLUMNS = (
    "time_s",
    "attempt",
    "index",
    "instance",
    "total_bytes",
    "used_bytes",
    "free_bytes",
    "reserved_bytes",
    "own_bytes",
    "others_bytes",
    "utilization_percent",
    "temperature_c",
    "power_w",
)
RANK_COLUMNS = (
    "time_s",
    "attempt",
    "step",
    "epoch",
    "examples_seen",
    "micro_batch",
    "grad_accum_steps",
    "step_time_s",
    "loss",
    "learning_rate",
    "grad_norm",
    "num_items",
    "longest",
    "allocated_bytes",
    "reserved_bytes",
    "active_bytes",
    "inactive_split_bytes",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "capacity_bytes",
    "num_alloc_retries",
    "num_ooms",
)


MAX_OWED = 1000  # journal entries that wait for room on the disk
RESENT_ROWS = 8192  # more than a rank can send again
OUTPUT_COLUMNS = ("time_s", "begins_at", "ends_at")
"""Bytes that had been printed before the first one of output.log as it was then, and in all."""


class Recorder:
    """The open files of a run that is going on."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._journal = Journal(directory.journal)
        self._owed: list[wire.JournalEntry] = []
        """Entries that could not be written yet."""
        self._moments = MomentWriter(directory.states)
        self._coming = LineWriter(directory.coming)
        self._host = SampleWriter(directory.samples / "host.rec", HOST_COLUMNS)
        self._output: SampleWriter | None = None
        self._ranks: dict[int, SampleWriter] = {}
        self._before: dict[int, frozenset[float]] = {}
        """Times of the newest rows that were there when a rank's file was opened."""
        self._gpus: dict[int, SampleWriter] = {}
        self.error = ""
        """What the last write that failed has met, such as a full disk."""
        self.failed = 0
        """Writes that failed."""
        self.lost = 0
        """Records that were given up for it: samples at once, journal entries only when they are very many."""

    def journal(self, entry: wire.JournalEntry) -> None:
        """Append one entry, and those before it that a full disk did not take."""
        self._owed.append(entry)
        self._guard(self._write_owed, lost=0)
        self.lost += max(0, len(self._owed) - MAX_OWED)
        del self._owed[:-MAX_OWED]

    def host(self, sample: wire.HostSample, attempt: int) -> None:
        """Append one host sample."""
        host = sample.host
        row = (
            sample.time_s,
            attempt,
            host.process_bytes,
            host.num_processes,
            host.working_set_bytes,
            host.peak_working_set_bytes,
            host.capacity_bytes,
        )
        self._guard(lambda: self._host.append(row))

    def gpus(self, sample: wire.GpuSample, attempt: int) -> None:
        """Append one row for each GPU, to the file of its place in the sample."""
        for place, gpu in enumerate(sample.gpus):
            row = (sample.time_s, attempt, *(getattr(gpu, name) for name in GPU_COLUMNS[2:]))
            self._guard(partial(self._append_gpu, place, row))

    def output(self, time_s: float, begins_at: int, ends_at: int) -> None:
        """Append how much has been printed by now."""
        self._guard(lambda: self._output_file().append((time_s, begins_at, ends_at)))

    def rank(self, rank: int, rows: Sequence[Sequence[float | None]]) -> None:
        """Append rows of a rank, as `rank_row` makes them."""
        self._guard(lambda: self._rank_file(rank).append(*rows), lost=len(rows))

    def has(self, sample: wire.StepReport | wire.MemorySample) -> bool:
        """Whether another recorder has written down this very sample."""
        with contextlib.suppress(OSError):  # whoever writes to it next says so
            self._rank_file(sample.rank)
        return sample.time_s in self._before.get(sample.rank, ())

    def coming(self, message: wire.ComingGroups) -> None:
        """Append an order of examples to come."""
        self._guard(lambda: self._coming.append(wire.encode(message)))

    def state(self, state: wire.RunState) -> None:
        """Replace the last state."""
        self._guard(lambda: self._directory.write_state(state))

    def moment(self, time_s: float, state: wire.RunState) -> None:
        """Append what something other than a sample has made of the state."""
        self._guard(lambda: self._moments.append(Moment(time_s, state)))

    def close(self) -> None:
        """Close every file."""
        self._guard(self._write_owed, lost=0)
        self._journal.close()
        self._moments.close()
        self._coming.close()
        for writer in (self._host, self._output, *self._ranks.values(), *self._gpus.values()):
            if writer is not None:
                writer.close()

    def _output_file(self) -> SampleWriter:
        if self._output is None:
            self._output = SampleWriter(self._directory.samples / "output.rec", OUTPUT_COLUMNS)
        return self._output

    def _rank_file(self, rank: int) -> SampleWriter:
        if rank not in self._ranks:
            path = self._directory.samples / f"rank-{rank}.rec"
            self._ranks[rank] = SampleWriter(path, RANK_COLUMNS)
            self._before[rank] = frozenset(row["time_s"] or 0.0 for row in newest_rows(path, RESENT_ROWS))
        return self._ranks[rank]

    def _append_gpu(self, place: int, row: tuple[float | None, ...]) -> None:
        if place not in self._gpus:
            self._gpus[place] = SampleWriter(self._directory.samples / f"gpu-{place}.rec", GPU_COLUMNS)
        self._gpus[place].append(row)

    def _write_owed(self) -> None:
        while self._owed:
            self._journal.append(self._owed[0])
            del self._owed[0]

    def _guard(self, write: Callable[[], None], *, lost: int = 1) -> None:
        try:
            write()
        except OSError as error:
            self.error = str(error)
            self.failed += 1
            self.lost += lost


def recorded_hosts(directory: RunDirectory) -> Iterator[dict[str, float | None]]:
    """The host samples of a run, oldest first."""
    return _rows(directory.samples / "host.rec")


def recorded_ranks(directory: RunDirectory) -> Iterator[tuple[int, dict[str, float | None]]]:
    """The rows of every rank, rank by rank, oldest first."""
    for path in sorted(directory.samples.glob("rank-*.rec")):
        rank = int(path.stem.removeprefix("rank-"))
        for row in _rows(path):
            yield rank, row


def recorded_steps(directory: RunDirectory, attempt: int, after_s: float) -> list[wire.StepReport]:
    """The newest steps of an attempt on rank 0, later than a time and oldest first; what is not recorded is zero."""
    path = directory.samples / "rank-0.rec"
    rows = newest_rows(path, RESENT_ROWS) if path.exists() else []
    wanted = [row for row in rows if row["attempt"] == attempt and (row["time_s"] or 0.0) > after_s]
    return [_step(row) for row in wanted if row["step_time_s"] is not None]


def recorded_gpus(directory: RunDirectory) -> Iterator[tuple[int, dict[str, float | None]]]:
    """The rows of every GPU with its place among them, GPU by GPU, oldest first."""
    for path in sorted(directory.samples.glob("gpu-*.rec"), key=lambda path: int(path.stem.removeprefix("gpu-"))):
        place = int(path.stem.removeprefix("gpu-"))
        for row in _rows(path):
            yield place, row


def _rows(path: Path) -> Iterator[dict[str, float | None]]:
    return read_rows(path) if path.exists() else iter(())


def newest_rows(path: Path, count: int) -> list[dict[str, float | None]]:
    """The last rows of one file, oldest first. Raises RecordCorrupt, OSError."""
    reader = SampleReader(path)
    try:
        return list(reader.rows(max(0, len(reader) - count), len(reader)))
    finally:
        reader.close()


def _step(row: dict[str, float | None]) -> wire.StepReport:
    """As it was sent, without the device's memory."""
    fields: dict[str, Any] = {name: int(row[name] or 0) for name in (*RANK_COLUMNS[2:7], *RANK_COLUMNS[11:13])}
    fields |= {name: row[name] for name in ("time_s", *RANK_COLUMNS[7:11])}
    return wire.StepReport(rank=0, seq=0, **fields)


def rank_row(sample: wire.StepReport | wire.MemorySample, attempt: int) -> tuple[float | None, ...]:
    """A sample in RANK_COLUMNS; a MemorySample leaves the step's own columns empty."""
    step = _step_columns(sample) if isinstance(sample, wire.StepReport) else _NO_STEP
    memory = _memory_columns(sample.memory) if sample.memory is not None else _NO_MEMORY
    return (sample.time_s, attempt, sample.step, *step, *memory)


_step_columns, _memory_columns = attrgetter(*RANK_COLUMNS[3:13]), attrgetter(*RANK_COLUMNS[13:])
_NO_STEP = (None,) * 10
_NO_MEMORY = (None,) * len(RANK_COLUMNS[13:])

"""A recorded run once more: what was sampled and reported, and every state that samples do not tell, by time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from memdash import wire
from memdash.store.moments import Moment, Moments
from memdash.store.recorder import RANK_COLUMNS, newest_rows
from memdash.store.run_directory import RunDirectory
from memdash.store.samples import SampleReader

STEP_FIELDS = ("step", "epoch", "examples_seen", "micro_batch", "grad_accum_steps", "num_items", "longest")
MEMORY_FIELDS = RANK_COLUMNS[13:]

Recorded = wire.HostSample | wire.StepReport | wire.ComingGroups | Moment

T = TypeVar("T")

_coming = msgspec.json.Decoder(wire.ComingGroups)


def recorded_run(directory: RunDirectory, most_rows: int) -> Iterator[Recorded]:
    """Everything that a forecast is made of, oldest first; what was not recorded is zero or None.

    Of the samples and steps only the newest, so many in all.
    """
    ranks = sorted(directory.samples.glob("rank-*.rec"))
    rows = most_rows // (1 + len(ranks))
    sources: tuple[Iterator[Recorded], ...] = (
        _moments(directory),
        (_host(row) for row in _newest(directory.samples / "host.rec", rows)),
        recorded_coming(directory.coming),
        *(_steps(path, rows) for path in ranks),
    )
    return heapq.merge(*sources, key=lambda each: each.time_s)


def recorded_lately(directory: RunDirectory, attempt: int, rows: int) -> list[wire.HostSample | wire.StepReport]:
    """The last samples and steps of an attempt, at most so many of each source, oldest first."""
    found: list[wire.HostSample | wire.StepReport] = []
    for path in sorted(directory.samples.glob("*.rec")):
        source, _, rank = path.stem.partition("-")
        if source not in ("host", "rank"):
            continue
        for row in newest_rows(path, rows):
            if row["attempt"] == attempt and source == "host":
                found.append(_host(row))
            elif row["attempt"] == attempt and row["step_time_s"] is not None:
                found.append(_step(row, int(rank)))
    return sorted(found, key=lambda each: each.time_s)


def of_device(message: T, like: wire.DeviceMemory | None) -> T:
    """A step as of the device that `like` is a reading of: rows have its figures, not what it is."""
    if like is None or not isinstance(message, wire.StepReport) or message.memory is None:
        return message
    same = {name: getattr(like, name) for name in ("device", "kind", "joins_fragments")}
    return msgspec.structs.replace(message, memory=msgspec.structs.replace(message.memory, **same))


def recorded_coming(path: Path) -> Iterator[wire.ComingGroups]:
    """The orders of examples that ranks have told of; damaged lines are left out."""
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            yield _coming.decode(line)
        except msgspec.MsgspecError:
            continue


def _moments(directory: RunDirectory) -> Iterator[Moment]:
    moments = Moments(directory.states)
    try:
        for time_s in moments.times:
            if (moment := moments.at(time_s)) is not None:
                yield moment
    finally:
        moments.close()


def _host(row: Mapping[str, float | None]) -> wire.HostSample:
    fields: dict[str, Any] = {
        name: int(row[name] or 0)
        for name in ("process_bytes", "num_processes", "working_set_bytes", "peak_working_set_bytes", "capacity_bytes")
    }
    return wire.HostSample(
        time_s=row["time_s"] or 0.0, host=wire.HostMemory(kind="exact", capacity_source="the record", **fields)
    )


def _newest(path: Path, rows: int) -> Iterator[dict[str, float | None]]:
    """One after the other: they may be many."""
    if not path.exists():
        return
    reader = SampleReader(path)
    try:
        yield from reader.rows(max(0, len(reader) - rows), len(reader))
    finally:
        reader.close()


def _steps(path: Path, rows: int) -> Iterator[wire.StepReport]:
    rank = int(path.stem.removeprefix("rank-"))
    for row in _newest(path, rows):
        if row["step_time_s"] is not None:  # else a reading between steps
            yield _step(row, rank)


def _step(row: Mapping[str, float | None], rank: int) -> wire.StepReport:
    fields: dict[str, Any] = {name: int(row[name] or 0) for name in STEP_FIELDS}
    return wire.StepReport(
        rank=rank,
        seq=0,
        time_s=row["time_s"] or 0.0,
        step_time_s=row["step_time_s"] or 0.0,
        loss=row["loss"],
        memory=_memory(row),
        **fields,
    )


def _memory(row: Mapping[str, float | None]) -> wire.DeviceMemory:
    known: dict[str, Any] = {name: int(value) for name in MEMORY_FIELDS if (value := row[name]) is not None}
    return wire.DeviceMemory(device="the record", kind="exact" if known else "unavailable", **known)

"""Rows of a record as the messages that they were made of (pure).

A row has the figures; what does not change from one to the next, such as a device's name, comes from a reading beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from memdash import wire

Row = Mapping[str, float | None]
T = TypeVar("T", wire.DeviceMemory, wire.HostMemory, wire.GpuReading)

_STEP_INTS = ("step", "epoch", "examples_seen", "micro_batch", "grad_accum_steps", "num_items", "longest")
_STEP_FLOATS = ("loss", "learning_rate", "grad_norm")
_SAME_ALWAYS = {
    wire.DeviceMemory: ("device", "kind", "reason", "joins_fragments"),
    wire.HostMemory: ("kind", "capacity_source"),
    wire.GpuReading: ("cuda_index", "uuid", "name", "kind", "reason"),
}
_FLOATS = frozenset({"power_w"})


def rank_sample(
    rank: int, seq: int, row: Row, like: wire.DeviceMemory | None
) -> wire.StepReport | wire.MemorySample | None:
    """A step, or a reading between steps; None where the row says neither."""
    memory = with_figures(like, row) if like else None
    time_s = row["time_s"] or 0.0
    step_time_s = row.get("step_time_s")
    if step_time_s is not None:
        ints = {name: int(row.get(name) or 0) for name in _STEP_INTS}
        floats = {name: row.get(name) for name in _STEP_FLOATS}
        fields: dict[str, Any] = {**ints, **floats}
        return wire.StepReport(rank=rank, seq=seq, time_s=time_s, step_time_s=step_time_s, memory=memory, **fields)
    if memory is None:
        return None
    return wire.MemorySample(rank=rank, seq=seq, time_s=time_s, step=int(row.get("step") or 0), memory=memory)


def host_sample(row: Row, like: wire.HostMemory) -> wire.HostSample:
    """One reading of host memory."""
    return wire.HostSample(time_s=row["time_s"] or 0.0, host=with_figures(like, row))


def with_figures(like: T, row: Row) -> T:
    """A reading of the same thing as `like`, with the figures of a row; what was not recorded is as if never read."""
    kind = type(like)
    fields: dict[str, Any] = {name: getattr(like, name) for name in _SAME_ALWAYS[kind]}
    for name in kind.__struct_fields__:
        value = row.get(name)
        if value is not None:
            fields[name] = value if name in _FLOATS else int(value)
    return kind(**fields)

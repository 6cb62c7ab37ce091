"""What the configs of a sweep came to, side by side: for the terminal, as JSON, as CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from memdash.units import format_bytes, format_count

if TYPE_CHECKING:
    from memdash import wire
    from memdash.store.run_directory import RunDirectory


@dataclass
class Row:
    """One config."""

    config: str
    """As it is called in the table."""
    outcome: str
    """How its run ended, or `skipped` (too large), `mistake`, `interrupted`, `not run`."""
    why: str = ""
    run_id: str = ""
    """Empty where nothing was started."""
    exit_code: int = 0
    """As of `memdash run`."""
    parameters: int | None = None
    trainable: int | None = None
    peak_bytes: int | None = None
    peak_of: str = ""
    """`simulated`, a device's name, `host`, or `planned` where it is only an estimate."""
    planned_bytes: int | None = None
    step_time_s: float | None = None
    """The median."""
    steps: int = 0
    total_steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the last evaluation."""

    @classmethod
    def left_out(cls, name: str, plan: dict[str, Any], why: str) -> Row:
        """A config that cannot fit, with what its plan says of it."""
        row = cls(name, "skipped", why, parameters=plan["model"]["parameters"], trainable=plan["model"]["trainable"])
        row.peak_bytes = row.planned_bytes = _worst_bytes(plan)
        row.peak_of, row.total_steps = "planned", plan["steps"]
        return row

    @classmethod
    def of_run(cls, name: str, directory: RunDirectory, exit_code: int, plan: dict[str, Any] | None) -> Row:
        """A run, from its record."""
        from memdash.errors import ExitCode
        from memdash.store.recorder import recorded_hosts, recorded_ranks

        state = directory.state()
        row = cls(name, "failed", run_id=directory.run_id, exit_code=exit_code)
        row.planned_bytes = _worst_bytes(plan) if plan else None
        if state is None:
            return row
        row.outcome, row.why = state.status, state.status_reason
        if exit_code == ExitCode.INTERRUPTED:
            row.outcome, row.why = "goes on", f"memdash attach {directory.run_id}"
        row.parameters, row.trainable = state.num_parameters or None, state.num_trainable_parameters or None
        row.steps, row.total_steps, row.metrics = state.step, state.total_steps, state.metrics
        ranks = [rank for _, rank in recorded_ranks(directory)]
        times = [time_s for rank in ranks if (time_s := rank.get("step_time_s")) is not None]
        row.step_time_s = median(times) if times else None
        peaks = [peak for rank in ranks if (peak := rank.get("peak_allocated_bytes")) is not None]
        row.peak_of = _device(state)
        if not peaks:
            row.peak_of = "host"
            hosts = recorded_hosts(directory)
            peaks = [peak for host in hosts if (peak := host.get("peak_working_set_bytes")) is not None]
        row.peak_bytes = int(max(peaks)) if peaks else None
        return row


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """A table with a line a config, and below it why some have no figures."""
    names = _metric_names(rows)
    table = [["config", "parameters", "trainable", "peak memory", "s/step", "steps", *names, "outcome"]]
    table += [_cells(row, names) for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        first, *figures, outcome = cells
        middle = "  ".join(cell.rjust(width) for cell, width in zip(figures, widths[1:-1], strict=True))
        yield f"{first.ljust(widths[0])}  {middle}  {outcome}".rstrip()
    reasons = [f"{row.config} {row.outcome}: {row.why}" for row in rows if row.why]
    yield from ("", *reasons) if reasons else ()


def as_json(rows: Sequence[Row]) -> str:
    """Everything, one object a config."""
    return json.dumps({"configs": [asdict(row) for row in rows]}, indent=2)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """Everything, one line a config, a column for each metric."""
    names = _metric_names(rows)
    columns = [name for name in asdict(rows[0]) if name != "metrics"]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*columns, *names])
        for row in rows:
            values = [getattr(row, name) for name in columns]
            writer.writerow([*values, *(row.metrics.get(name, "") for name in names)])


def _cells(row: Row, names: Sequence[str]) -> list[str]:
    of = f" ({row.peak_of})" if row.peak_of else ""
    steps = f"{row.steps}/{row.total_steps}" if row.run_id and row.total_steps else ""
    figures = [
        format_count(row.parameters) if row.parameters else "",
        format_count(row.trainable) if row.trainable else "",
        f"{format_bytes(row.peak_bytes)}{of}" if row.peak_bytes is not None else "",
        f"{row.step_time_s:.3f}" if row.step_time_s is not None else "",
        steps,
    ]
    metrics = [f"{row.metrics[name]:.4f}" if name in row.metrics else "" for name in names]
    return [row.config, *figures, *metrics, row.outcome]


def _metric_names(rows: Sequence[Row]) -> list[str]:
    """Of all, in the order in which they come up."""
    return list(dict.fromkeys(name for row in rows for name in row.metrics))


def _device(state: wire.RunState) -> str:
    return "simulated" if state.memory and state.memory.kind == "simulated" else state.device


def _worst_bytes(plan: dict[str, Any]) -> int:
    from memdash.commands._planning import configured

    return int(configured(plan)["worst_bytes"])

"""A whole plan as one JSON object: the data, the table of micro-batches, what will not fit and when, what would."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memdash.config import RunConfig
from runner.planning.configuration import TIGHT, Configuration
from runner.planning.disk import disk
from runner.planning.outlook import Moment
from runner.planning.padding import ways
from runner.planning.probe import STEPS
from runner.planning.room import Room, held_by_malloc
from runner.planning.statistics import LengthStatistics
from runner.planning.traced import Tracing
from runner.planning.variants import choices, variants
from runner.slicing import OF_ITEMS
from runner.tasks.protocol import Task
from runner.tasks.selection import cannot

if TYPE_CHECKING:
    from torch import nn

QUICK_S = (
    2.0  # of CPU for the config's own traces: a model that is as quick has its variants traced without being asked
)


@dataclass(frozen=True)
class HostFacts:
    """What the planning process has measured in itself, and what the machine has."""

    imports_bytes: int
    """Resident, of Python and the libraries that the training process imports."""
    data_bytes: int
    """Resident, of the task's data."""
    returns: bool
    """Whether the run's malloc returns large blocks at once."""
    free_bytes: int
    """Of the machine or the cgroup; 0 = unknown."""
    source: str


@dataclass(frozen=True)
class Question:
    """What is asked besides the config."""

    half: str = "bf16"
    """The half precision that suits the target."""
    variants: bool | None = None
    """None = where they are cheap, or nothing fits as it is."""
    host: HostFacts | None = None


class Planner:
    """Traces a task's step, and answers from that."""

    def __init__(
        self, task: Task, model: nn.Module, config: RunConfig, room: Room, question: Question | None = None
    ) -> None:
        self._config = config
        self._task = task
        self._room = room
        self._question = question or Question()
        self._parameters = sum(p.numel() for p in model.parameters())
        self._tracing = Tracing(task, model, room)
        self._base, self._tracer = self._tracing.trace(config)
        self._traced_s, self._traces = self._tracing.cpu_s, self._tracing.num_traces

    def plan(self) -> dict[str, Any]:
        """Everything, as JSON."""
        base, statistics = self._base, self._statistics
        rows = [self._row(size) for size in base.micro_batches]
        trained = (p.numel() for p in self._tracer.state.model.parameters() if p.requires_grad)
        others = self._variants()
        return {
            "model": {"parameters": self._parameters, "trainable": sum(trained)},
            "data": {
                "item_name": self._task.item_name,
                **asdict(statistics),
                "outlier_lines": self._lines([index for index, _ in statistics.outliers]),
                "source": Path(self._config.data.source).name,
                "policy": self._config.data.padding,
                "passes": list(getattr(self._task, "passes", ())),
                "ways": ways(base, statistics, cannot(self._task)),
            },
            "steps": base.steps.total_steps,
            "group": base.group,
            "configured": self._config.micro_batch,
            "precision": self._config.train.precision,
            "largest": base.largest,
            "room": {**asdict(self._room), "tight": TIGHT},
            "rows": rows,
            "variants": others,
            "choices": choices(base, self._isolated, others or []),
            "disk": disk(self._config, self._tracer.state),
            "wall": self._config.budget.wall,
            "method": self._method(),
        }

    @cached_property
    def _statistics(self) -> LengthStatistics:
        return LengthStatistics.of(self._task.train_lengths)

    @cached_property
    def _isolated(self) -> Configuration | None:
        """As the config, with each outlier in a slice of its own; None where there is none, or each is already."""
        base, statistics = self._base, self._statistics
        if not statistics.num_outliers or base.slicing.alone_above or self._config.train.optimizer_in_backward:
            return None
        slicing = replace(base.slicing, alone_above=statistics.longest_usual)
        return Configuration(self._config, slicing, self._room, base.estimator)

    def _variants(self) -> list[dict[str, Any]] | None:
        """None where they were not asked for and are not needed."""
        wanted = self._question.variants
        if wanted is None:
            wanted = self._base.verdict(self._config.micro_batch) == "oom" and self._base.largest is None
            wanted = wanted or self._traced_s < QUICK_S
        if not wanted:
            return None
        return variants(
            self._base, self._question.half, lambda config: self._tracing.trace(config, is_checked=False)[0]
        )

    def _row(self, micro_batch: int) -> dict[str, Any]:
        base, statistics = self._base, self._statistics
        lengths = {"longest": statistics.longest, "p99": statistics.p99, "median": statistics.median}
        at = {name: base.at(micro_batch, length) for name, length in lengths.items()}
        peak, held_bytes = at["longest"]
        outlook, framework_bytes = base.outlook(micro_batch), self._room.framework_bytes
        holes = held_bytes - framework_bytes - peak.bytes
        return {
            "micro_batch": micro_batch,
            "slices": base.slices_of(micro_batch),
            "peak_bytes": {name: held for name, (_, held) in at.items()},
            "isolated_bytes": self._isolated_bytes(micro_batch),
            "terms": {**peak.terms, "fragments": holes, "framework": framework_bytes},
            "worst_bytes": base.worst_bytes(micro_batch),
            "worst": _as_json(outlook.worst),
            "first_steps": dict(zip(("bytes", "cells"), base.first_steps(micro_batch, STEPS), strict=True)),
            "cells": base.cells(micro_batch),
            "first_over": self._with_line(_as_json(outlook.first_over)),
            "verdict": base.verdict(micro_batch),
            "host": self._host(micro_batch),
        }

    def _isolated_bytes(self, micro_batch: int) -> int:
        """The peak at the longest if each outlier were a slice of its own; nothing is padded to it where items are not."""
        if self._base.slicing.padding in OF_ITEMS:
            return self._base.worst_bytes(micro_batch)
        estimator, statistics = self._base.estimator, self._statistics
        alone = estimator.held_step(1, statistics.longest, 2)
        usual = estimator.held_step(micro_batch, statistics.longest_usual, self._base.slices_of(micro_batch))
        return max(alone, usual) + self._room.framework_bytes

    def _host(self, micro_batch: int) -> dict[str, Any] | None:
        """Of a run on a GPU without CUDA's own libraries, which are not here to be measured."""
        facts = self._question.host
        if facts is None:
            return None
        tensors_bytes = 0
        if self._room.holder != "cuda":
            peak, _ = self._base.at(micro_batch, self._statistics.longest)
            tensors_bytes = peak.bytes if facts.returns else held_by_malloc(peak)
        total_bytes = facts.imports_bytes + facts.data_bytes + tensors_bytes
        verdict = "unknown" if not facts.free_bytes else "fits" if total_bytes <= facts.free_bytes else "oom"
        return {**asdict(facts), "tensors_bytes": tensors_bytes, "total_bytes": total_bytes, "verdict": verdict}

    def _lines(self, indices: list[int]) -> list[int]:
        """Where in the file they are; nothing where the task has none."""
        lines = getattr(self._task, "train_lines", ())
        found = [int(lines[index]) for index in indices] if lines else []
        return found if any(found) else []

    def _with_line(self, moment: dict[str, Any] | None) -> dict[str, Any] | None:
        if moment is None:
            return None
        return {**moment, "line": next(iter(self._lines([moment["example"]])), 0)}

    def _method(self) -> dict[str, Any]:
        estimator = self._base.estimator
        return {
            "scaled": not estimator.why_not_scaled,
            "why_not": estimator.why_not_scaled,
            "checked_error": estimator.checked_error,
            "traces": self._traces,
            "cpu_s": round(self._traced_s, 3),
            "as_cuda": self._room.holder == "cuda",
        }


def _as_json(moment: Moment | None) -> dict[str, Any] | None:
    return asdict(moment) if moment else None

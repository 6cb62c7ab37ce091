"""A whole plan as one JSON object: the data, the table of micro-batches, what will not fit and when, what fits."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from memdash.batching import divisors
from memdash.config import RunConfig
from runner.groups import Groups
from runner.optimizer import Plan
from runner.planning.estimate import Estimator
from runner.planning.outlook import Moment, Outlook, look
from runner.planning.paddings import Sampler, compare, policies
from runner.planning.statistics import LengthStatistics, Slices, blow_up, epochs
from runner.planning.trace import Peak, larger
from runner.planning.tracer import Tracer
from runner.slicing import OF_ITEMS, Slicing
from runner.tasks.protocol import Task
from runner.tasks.selection import has_items

if TYPE_CHECKING:
    from torch import nn

MAX_ROWS = 10  # micro-batches in the table
TIGHT = 0.9  # of the capacity: fragments of the device's cache, and what lives within one operation, are not estimated


@dataclass(frozen=True)
class Room:
    """What there is to fit into."""

    capacity_bytes: int | None
    framework_bytes: int = 0
    """Of it, what is taken before the first tensor."""
    granularity: int = 1
    source: str = ""
    """What says so, in words for a person."""

    @property
    def for_tensors(self) -> int | None:
        """What is left for tensors; None where nobody knows."""
        return None if self.capacity_bytes is None else self.capacity_bytes - self.framework_bytes


class Planner:
    """Traces a task's step, and answers from that."""

    def __init__(self, task: Task, model: nn.Module, config: RunConfig, room: Room) -> None:
        began_s = time.process_time()
        self._config = config
        self._task = task
        self._room = room
        self._group = config.train.global_batch
        self._slicing = Slicing.of(task, config.data)
        bucket_lengths = self._slicing.told_lengths() if config.data.padding == "bucket" else None
        self._groups = Groups(len(task.train_lengths), self._group, config.run.seed, bucket_lengths)
        self._parameters = [(p.numel(), p.requires_grad) for p in model.parameters()]
        self._tracer = Tracer(task, model, config.train)
        example = {length: index for index, length in enumerate(task.train_lengths)}
        self._estimator = Estimator(
            lambda batch, length: self._tracer.trace(batch, example[max(length, min(example))]),
            task.train_lengths,
            self._group,
            room.granularity,
        )
        self._tracing_s = time.process_time() - began_s

    def plan(self) -> dict[str, Any]:
        """Everything, as JSON."""
        statistics = self._statistics
        micro_batches = self._micro_batches()
        outlooks = {size: self._outlook(size) for size in micro_batches}
        fitting = [size for size in micro_batches if outlooks[size].fits]
        return {
            "model": {
                "parameters": sum(count for count, _ in self._parameters),
                "trainable": sum(count for count, is_trained in self._parameters if is_trained),
            },
            "data": {
                "item_name": self._task.item_name,
                **asdict(statistics),
                "padding": blow_up(self._task.train_lengths, self._epoch(self._config.micro_batch)),
                "policy": self._config.data.padding,
                "passes": list(getattr(self._task, "passes", ())),
            },
            "paddings": self._paddings(),
            "steps": self._plan.total_steps,
            "group": self._group,
            "configured": self._config.micro_batch,
            "precision": self._config.train.precision,
            "largest": max(fitting, default=None) if self._room.for_tensors is not None else None,
            "room": {**asdict(self._room), "tight": TIGHT},
            "rows": [self._row(size, outlooks[size]) for size in micro_batches],
            "method": {
                "scaled": not self._estimator.why_not_scaled,
                "why_not": self._estimator.why_not_scaled,
                "checked_error": self._estimator.checked_error,
                "traces": self._tracer.num_traces,
                "cpu_s": round(self._tracing_s, 3),
            },
        }

    @cached_property
    def _statistics(self) -> LengthStatistics:
        return LengthStatistics.of(self._task.train_lengths)

    @cached_property
    def _plan(self) -> Plan:
        return Plan(len(self._task.train_lengths), self._group, self._config.train)

    def _micro_batches(self) -> list[int]:
        """Those that cut the group evenly, and the config's own."""
        sizes = divisors(self._group)
        if len(sizes) > MAX_ROWS:
            sizes = sizes[: MAX_ROWS // 2] + sizes[-MAX_ROWS // 2 :]
        return sorted({*sizes, self._config.micro_batch})

    def _epoch(self, micro_batch: int) -> Slices:
        return next(epochs(self._slicing, self._groups, self._group, micro_batch, self._plan.steps_per_epoch))

    def _outlook(self, micro_batch: int) -> Outlook:
        run = epochs(self._slicing, self._groups, self._group, micro_batch, self._plan.total_steps)
        return look(run, self._need, micro_batch, self._room.for_tensors)

    def _need(self, phase: Any, batch: int, length: int) -> int:
        return self._estimator.phase(phase, batch, length).bytes

    def _row(self, micro_batch: int, outlook: Outlook) -> dict[str, Any]:
        num_slices = -(-self._group // micro_batch)
        peaks = self._peaks(micro_batch, num_slices)
        return {
            "micro_batch": micro_batch,
            "slices": num_slices,
            "peak_bytes": {name: peak.bytes + self._room.framework_bytes for name, peak in peaks.items()},
            "isolated_bytes": self._isolated_bytes(micro_batch, num_slices),
            "terms": {**peaks["longest"].terms, "framework": self._room.framework_bytes},
            "worst_bytes": outlook.worst_bytes + self._room.framework_bytes,
            "worst": _as_json(outlook.worst),
            "first_over": _as_json(outlook.first_over),
            "verdict": self._verdict(outlook.worst_bytes),
        }

    def _paddings(self) -> list[dict[str, Any]]:
        """Each way to pad, at the config's micro-batch; nothing where all examples are usual and of one item."""
        statistics = self._statistics
        several = has_items(self._task)
        if not several and not statistics.num_outliers:
            return []
        which = policies(has_items=several, usual=statistics.longest_usual, longest=statistics.longest)
        lengths, seed = self._task.train_lengths, self._config.run.seed
        sampler = Sampler(lengths, self._group, seed, self._plan.total_steps)
        room = self._room.for_tensors
        outcomes = compare(which, sampler, self._config.micro_batch, self._need, room)
        taken = self._room.framework_bytes
        return [
            {
                **asdict(outcome),
                "worst_bytes": outcome.worst_bytes + taken,
                "verdict": self._verdict(outcome.worst_bytes),
            }
            for outcome in outcomes
        ]

    def _verdict(self, worst_bytes: int) -> str:
        """Of tensors of so many bytes."""
        room = self._room.for_tensors
        if room is None:
            return "unknown"
        if worst_bytes > room:
            return "oom"
        total = worst_bytes + self._room.framework_bytes
        return "tight" if total > TIGHT * (self._room.capacity_bytes or 0) else "fits"

    def _peaks(self, micro_batch: int, num_slices: int) -> dict[str, Peak]:
        """At lengths of the data; without padding at the numbers of items that slices really have."""
        if self._slicing.padding in OF_ITEMS:
            p50, p99, most = np.quantile(self._epoch(micro_batch).count, [0.5, 0.99, 1], method="lower").tolist()
            items = {"longest": most, "p99": p99, "median": p50}
            return {name: self._estimator.step(count, 1, 2) for name, count in items.items()}
        statistics = self._statistics
        lengths = {"longest": statistics.longest, "p99": statistics.p99, "median": statistics.median}
        return {name: self._peak(micro_batch, length, num_slices) for name, length in lengths.items()}

    def _peak(self, micro_batch: int, length: int, num_slices: int) -> Peak:
        """Of a step whose longest example is so long: in a slice of its own where the config says so."""
        alone = 0 < self._slicing.alone_above < length
        return self._estimator.step(1, length, 2) if alone else self._estimator.step(micro_batch, length, num_slices)

    def _isolated_bytes(self, micro_batch: int, num_slices: int) -> int:
        """The peak at the longest if each outlier were a slice of its own; no padding would be saved where there is none."""
        if self._slicing.padding in OF_ITEMS:
            return self._peaks(micro_batch, num_slices)["longest"].bytes + self._room.framework_bytes
        alone = self._estimator.step(1, self._statistics.longest, 2)
        usual = self._statistics.longest_usual
        return larger(alone, self._estimator.step(micro_batch, usual, num_slices)).bytes + self._room.framework_bytes


def _as_json(moment: Moment | None) -> dict[str, int] | None:
    return asdict(moment) if moment else None

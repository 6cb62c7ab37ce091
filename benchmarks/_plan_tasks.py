"""The plan's peaks beside those of real steps of what is no BERT: the baselines, aspect quadruples, signal-to-text."""

from __future__ import annotations

import gc
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks._table import Row, row
from memdash.agent.session import Session
from memdash.batching import BatchSplit
from memdash.config import TrainSection
from memdash.config_file import parse_config
from runner.optimizer import make_optimizer
from runner.planning.estimate import Estimator
from runner.planning.tracer import Tracer
from runner.precision import Precision
from runner.simulated import SimulatedDevice
from runner.spec import Spec
from runner.step import GroupStep
from runner.tasks.opening import open_task
from runner.tasks.protocol import Task
from runner.training_state import Progress, TrainingState


@dataclass(frozen=True)
class Workload:
    """A config, and the micro-batches at which it is measured."""

    keys: dict[str, dict[str, Any]]
    batches: Sequence[int]


def baseline(architecture: str, longest: int) -> dict[str, dict[str, Any]]:
    """A text classifier from scratch; `longest` in tokens."""
    return {
        "task": {"name": "text-classification"},
        "model": {"architecture": architecture},
        "data": {"source": "python-docs", "max_length": longest, "vocab_size": 2000, "max_examples": 300},
    }


def aspects(layers: int) -> dict[str, dict[str, Any]]:
    """Of 1 to 26 items."""
    sizes = {"num_hidden_layers": layers, "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 256}
    return {
        "task": {"name": "aspects"},
        "model": {"config": sizes},
        "data": {"source": "aspects", "max_length": 112, "vocab_size": 1000},
    }


def signals(timesteps: int) -> dict[str, dict[str, Any]]:
    """Signal-to-text of one length, with the hidden size of the example at full shape."""
    return {
        "task": {
            "name": "signal-to-text",
            "options": {"examples": 40, "channels": 32, "timesteps": timesteps, "longest_text": 4},
        },
        "model": {"config": {"hidden_size": 128}},
        "data": {"source": "signals"},
    }


def workloads(quick: bool) -> dict[str, Workload]:
    """By name."""
    if quick:
        return {
            "lstm": Workload(baseline("lstm", 24), (1, 4)),
            "aspects": Workload(aspects(1), (1, 2)),
            "signal-to-text, 250 timesteps": Workload(signals(250), (1, 4)),
        }
    batches = (1, 2, 4, 8, 16)
    found = {name: Workload(baseline(name, 64), batches) for name in ("rnn", "lstm", "transformer")}
    found["aspects"] = Workload(aspects(2), (1, 2, 4, 8))
    for timesteps in (250, 1000, 2750):
        found[f"signal-to-text, {timesteps:,} timesteps"] = Workload(signals(timesteps), batches)
    return found


@dataclass
class Planned:
    """A task with its plan."""

    task: Task
    estimator: Estimator
    index: dict[int, int]
    """Length -> an example that long."""
    points: list[tuple[int, int]]
    """(batch, length) of what is measured."""


def plan(workload: Workload, folder: Path) -> Planned:
    """At the shortest, a usual and the longest length, and each micro-batch."""
    config = parse_config({**workload.keys, "train": {"global_batch": 16, "threads": 1}}, base=folder)
    task = open_task(Spec(config, folder, folder))
    index = {length: number for number, length in enumerate(task.train_lengths)}
    tracer = Tracer(task, task.build_model().train(), TrainSection())
    estimator = Estimator(lambda batch, length: tracer.trace(batch, index[length]), task.train_lengths, 16)
    lengths = sorted(index)
    chosen = {lengths[0], lengths[len(lengths) // 2], lengths[-1]}
    return Planned(task, estimator, index, [(batch, length) for length in sorted(chosen) for batch in workload.batches])


def errors(planned: Planned, device: SimulatedDevice) -> list[float]:
    """Of each point, in per cent of the peak of a real step; negative where less was planned."""
    task, train = planned.task, TrainSection()
    gc.collect()
    base = device.read_memory().allocated_bytes or 0
    with device.host():
        model = task.build_model().train()
    device.place(model)
    state = TrainingState(model, make_optimizer(model, train), Progress(), device, Precision(train.precision, device))
    found = []
    for number, (batch, length) in enumerate([planned.points[0], *planned.points]):
        step = GroupStep(state, task, BatchSplit(batch, batch), Session(device.read_memory))
        gc.collect()
        device.read_memory()
        step.train([planned.index[length]] * batch, 0, train.learning_rate, train.max_grad_norm)
        peak = (device.read_memory().peak_allocated_bytes or 0) - base
        if number:  # the first step of all has no optimizer state yet
            found.append((planned.estimator.step(batch, length, 1).bytes / peak - 1) * 100)
    return found


def plan_all(quick: bool) -> dict[str, Planned]:
    """Before the simulated device is started: the plan learns what an LSTM takes from torch's own allocator."""
    with tempfile.TemporaryDirectory() as folder:
        return {name: plan(workload, Path(folder)) for name, workload in workloads(quick).items()}


def task_rows(plans: dict[str, Planned], device: SimulatedDevice) -> list[Row]:
    """Median and worst of each, beside the aims."""
    rows = []
    for name, planned in plans.items():
        off = [abs(error) for error in errors(planned, device)]
        figure = f"{name}, {len(off)} sizes: error of the peak"
        rows.append(row(f"{figure}, median %", statistics.median(off), 0.1, "aim", "ours", "<=", 0.1))
        rows.append(row(f"{figure}, worst %", max(off), 1, "aim", "ours", "<=", 1.0))
    return rows

"""`memdash plan` beside what training really takes: predicted and measured peaks of BERTs on the simulated device and the host.

The peers are what people go by: 16 bytes a parameter, `accelerate estimate-memory`, a polynomial in batch and length
through the measured peaks of the very sizes that the plan traces, torch's own MemTracker on fake tensors, and the error that
LLMem published for single GPUs. Host memory is read in a process of its own for each size and each way to allocate.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification

from benchmarks._plan_tasks import plan_all, task_rows
from benchmarks._table import Row, Value, main, not_measured, row
from memdash.agent.session import Session
from memdash.batching import BatchSplit
from memdash.config import RunConfig, TrainSection
from runner.adapt import adapt
from runner.device import Batch, CpuDevice, resident_bytes, trim_host_memory
from runner.optimizer import make_optimizer
from runner.planning.estimate import PROBED_BATCHES, Estimator
from runner.planning.no_values import NoValues
from runner.planning.probe import peak_resident_bytes
from runner.planning.room import Holder
from runner.planning.tracer import Tracer
from runner.precision import Precision
from runner.simulated import SimulatedDevice
from runner.step import GroupStep
from runner.training_state import Progress, TrainingState

BATCHES = (1, 2, 4, 8, 16, 32)
LENGTHS = (64, 128, 256, 512)
MODELS = {
    "BERT-tiny": (2, 128),
    "BERT-mini": (4, 256),
    "BERT-small": (4, 512),
    "MiniLM-size": (6, 384),
    "DistilBERT-size": (6, 768),
    "BERT-base": (12, 768),
}
MOST_REAL_CELLS = 3e6  # layers x width x batch x length: a step of more takes a minute on a core, and in fp16 minutes
MOST_FITTED_CELLS = 2e7  # the same of the few sizes that only the polynomial needs
WAYS = {
    "fp32": TrainSection(),
    "bf16": TrainSection(precision="bf16"),
    "fp16": TrainSection(precision="fp16"),
    "checkpointing": TrainSection(gradient_checkpointing=True),
}
LLMEM_PERCENT = 1.6  # arXiv 2404.10933, the largest of its errors on one GPU
HOST_SIZES = {"BERT-tiny": ((8, 128), (32, 128)), "BERT-mini": ((8, 128), (4, 512)), "DistilBERT-size": ((4, 128),)}
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "131072"}
UNLIMITED = 1 << 40
NUM_QUERIES = 100
Point = tuple[int, int]
"""(batch, length)."""


@dataclass(frozen=True)
class Texts:
    """One text of each length, and a BERT of some layers and width, with the vocabulary of the real one."""

    layers: int
    width: int

    name = "classification"
    item_name = "examples"
    train_lengths = LENGTHS
    validation_lengths: tuple[int, ...] = ()

    def build_model(self) -> nn.Module:
        """Untrained."""
        config = BertConfig(
            num_hidden_layers=self.layers,
            hidden_size=self.width,
            num_attention_heads=self.width // 64,
            intermediate_size=4 * self.width,
        )
        model: nn.Module = BertForSequenceClassification(config)
        return model.train()

    def collate(self, part: str, indices: Sequence[int], epoch: int) -> Batch:
        """All of one length; the last token is padding, so that attention has something to mask."""
        tokens = torch.ones(len(indices), max(LENGTHS[index] for index in indices), dtype=torch.long)
        tokens[:, -1] = 0
        labels = torch.zeros(len(indices), dtype=torch.long)
        return {"input_ids": tokens, "attention_mask": tokens.clone(), "labels": labels}

    def count_items(self, batch: Batch) -> int:
        """Examples."""
        return len(batch["labels"])

    def loss_sum(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Over the examples."""
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return cross_entropy(logits, batch["labels"], reduction="sum")

    def metric_sums(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Nothing is evaluated."""
        return {}

    def save_files(self, model: nn.Module, folder: Any) -> None:
        """Nothing is saved."""


def planned(task: Texts, train: TrainSection, holder: Holder = "tensors") -> tuple[Estimator, float, float]:
    """The plan, the CPU-seconds that it took, the model's own included, and those of one further question."""
    began_s = time.process_time()
    with NoValues():
        model = task.build_model()
    adapt(model, RunConfig(train=train))
    tracer = Tracer(task, model, train)
    estimator = Estimator(
        lambda batch, length: tracer.trace(batch, LENGTHS.index(length)), LENGTHS, max(BATCHES), holder=holder
    )
    took_s = time.process_time() - began_s
    began_s = time.process_time()
    for batch in range(100, 100 + NUM_QUERIES):
        estimator.step(batch, LENGTHS[-1], 1)
    return estimator, took_s, (time.process_time() - began_s) / NUM_QUERIES


def measured(
    task: Texts, train: TrainSection, device: SimulatedDevice, points: Sequence[Point]
) -> tuple[dict[Point, int], dict[Point, int]]:
    """Peaks of real steps, allocated and reserved, of a device that is empty but for what was there before."""
    gc.collect()
    device.empty_cache()
    before = device.read_memory()
    allocated, reserved = before.allocated_bytes or 0, before.reserved_bytes or 0
    with device.host():
        model = task.build_model()
    adapt(model, RunConfig(train=train))
    device.place(model)
    state = TrainingState(model, make_optimizer(model, train), Progress(), device, Precision(train.precision, device))
    peaks, cached = {}, {}
    for batch, length in points:
        step = GroupStep(state, task, BatchSplit(batch, batch), Session(device.read_memory))
        gc.collect()
        device.empty_cache()
        device.read_memory()
        step.train([LENGTHS.index(length)] * batch, 0, train.learning_rate, train.max_grad_norm)
        memory = device.read_memory()
        peaks[batch, length] = (memory.peak_allocated_bytes or 0) - allocated
        cached[batch, length] = (memory.peak_reserved_bytes or 0) - reserved
    return peaks, cached


def polynomial(peaks: dict[Point, int]) -> Callable[[int, int], float]:
    """a + b * batch * length + c * batch * length², by least squares."""
    terms = np.array([[1, batch * length, batch * length**2] for batch, length in peaks], dtype=float)
    fitted, *_ = np.linalg.lstsq(terms, np.array(list(peaks.values()), dtype=float), rcond=None)
    return lambda batch, length: float(fitted @ [1, batch * length, batch * length**2])


def accelerate_bytes(model: nn.Module) -> float | None:
    """What `accelerate estimate-memory` shows for training with Adam: four times the weights."""
    if importlib.util.find_spec("accelerate") is None:
        return None
    from accelerate.utils import calculate_maximum_sizes

    total, _ = calculate_maximum_sizes(model)
    return 4.0 * total


def errors(predict: Callable[[int, int], float], peaks: dict[Point, int]) -> tuple[float, float]:
    """Median and worst, in per cent of what was measured."""
    found = [abs(predict(*point) / peak - 1) * 100 for point, peak in peaks.items()]
    return statistics.median(found), max(found)


def tracked(task: Texts, batch: int, length: int) -> tuple[float, float]:
    """CPU-seconds of torch's MemTracker for one size on fake tensors, and the peak that it finds."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    began_s = time.process_time()
    train = TrainSection()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = task.build_model()
        optimizer = make_optimizer(model, train)
        tracker = MemTracker()
        tracker.track_external(model, optimizer)
        inputs = task.collate("train", [LENGTHS.index(length)] * batch, 0)
        with tracker:
            for _ in range(2):  # the second is the worst
                task.loss_sum(model, inputs).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                tracker.reset_mod_stats()
        peak = sum(device["Total"] for device in tracker.get_tracker_snapshot("peak").values())
    return time.process_time() - began_s, float(peak)


def compare(name: str, device: SimulatedDevice, way: str, batches: Sequence[int]) -> list[Row]:
    """All that is said of one model, trained one way; the peers know only one."""
    task, train = Texts(*MODELS[name]), WAYS[way]
    estimator, took_s, query_s = planned(task, train)
    small, large = PROBED_BATCHES
    check = (max(BATCHES), LENGTHS[len(LENGTHS) // 2])
    cells = MODELS[name][0] * MODELS[name][1]
    real = [(batch, length) for length in LENGTHS for batch in batches if cells * batch * length < MOST_REAL_CELLS]
    traced = [(small, LENGTHS[0]), (small, LENGTHS[-1]), (large, LENGTHS[-1]), check]
    traced = [(batch, length) for batch, length in traced if cells * batch * length < MOST_FITTED_CELLS]
    is_first = way == "fp32"
    peaks, cached = measured(task, train, device, sorted({*real, *(traced if is_first else ())}))
    ours = errors(lambda batch, length: estimator.step(batch, length, 1).bytes, {point: peaks[point] for point in real})
    label = f"{name}, {way}"
    if not is_first:
        return aims(label, ours, LLMEM_PERCENT, LLMEM_PERCENT, "LLMem, published")
    fit = polynomial({point: peaks[point] for point in traced})
    cached = {point: cached[point] for point in real}
    peaks = {point: peaks[point] for point in real}
    model = task.build_model()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    accelerated = accelerate_bytes(model)
    peers: dict[str, tuple[Value, Value]] = {
        "16 bytes a parameter": errors(lambda batch, length: 16.0 * parameters, peaks),
        "polynomial through our sizes": errors(fit, peaks),
        "accelerate estimate-memory": errors(lambda batch, length: accelerated or 0.0, peaks)
        if accelerated
        else (not_measured("accelerate is not installed"),) * 2,
        "LLMem, published": (LLMEM_PERCENT, LLMEM_PERCENT),
    }
    rows = [line for peer, (median, worst) in peers.items() for line in aims(label, ours, median, worst, peer)]
    reserving, _, _ = planned(task, train, "cuda")
    reserved = errors(lambda batch, length: reserving.held_step(batch, length, 1), cached)
    rows.append(row(f"{label}: error of what the cache reserves, median %", reserved[0], 2, "aim", "ours", "<=", 2.0))
    rows.append(row(f"{label}: the same, worst %", reserved[1], 6, "aim", "ours", "<=", 6.0))
    return [*rows, *costs(name, took_s, query_s), *beside_tracker(name, task, took_s, ours[1], peaks)]


def aims(label: str, ours: tuple[float, float], median: Value, worst: Value, peer: str) -> list[Row]:
    """Of the simulated device."""
    return [
        row(f"{label}: error of the peak, median %", ours[0], median, peer, "ours", "<=", 0.1),
        row(f"{label}: error of the peak, worst %", ours[1], worst, peer, "ours", "<=", 1.0),
    ]


def beside_tracker(name: str, task: Texts, took_s: float, worst: float, peaks: dict[Point, int]) -> list[Row]:
    """Its one size takes what all of ours do, or more."""
    point = sorted(peaks)[-1]
    tracker_s, peak = tracked(task, *point)
    error = abs(peak / peaks[point] - 1) * 100
    return [
        row(f"{name}: all sizes, CPU-s", took_s, tracker_s, "MemTracker, one size", "ratio", "<=", 2.0),
        row(f"{name}: worst error %", worst, error, "MemTracker, one size", "ours", "<=", 1.0),
    ]


def host_rows(sizes: dict[str, tuple[Point, ...]]) -> list[Row]:
    """What a process has resident beyond its libraries, as malloc is and as it returns large blocks."""
    found: dict[Holder, list[float]] = {"malloc": [], "returned": []}
    for name, points in sizes.items():
        task = Texts(*MODELS[name])
        for holder, off in found.items():
            estimator, _, _ = planned(task, TrainSection(), holder)
            for batch, length in points:
                base, peak = resident(name, batch, length, RETURNED if holder == "returned" else {})
                off.append(abs((base + estimator.held_step(batch, length, 1)) / peak - 1) * 100)
    rows = []
    for holder, off in found.items():
        words = "malloc as it is" if holder == "malloc" else "large blocks returned"
        rows.append(row(f"host, {words}: error, median %", statistics.median(off), 3, "aim", "ours", "<=", 3.0))
        rows.append(row(f"host, {words}: error, worst %", max(off), 8, "aim", "ours", "<=", 8.0))
    return rows


def resident(name: str, batch: int, length: int, environment: dict[str, str]) -> tuple[int, int]:
    """Of a process of its own: before there is a model, and at most in three steps."""
    command = [sys.executable, "-m", "benchmarks.plan_accuracy", "--resident", name, str(batch), str(length)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=True, env={**os.environ, **environment}
    )
    base, peak = map(int, done.stdout.split())
    return base, peak


def train_here(name: str, batch: int, length: int) -> None:
    """In that process: print what is resident."""
    torch.set_num_threads(1)
    train, warm = TrainSection(), Texts(1, 64)
    for task, size, steps in ((warm, 2, 1), (Texts(*MODELS[name]), batch, 3)):
        trim_host_memory()
        base = resident_bytes()
        device = CpuDevice()
        model = task.build_model()
        state = TrainingState(model, make_optimizer(model, train), Progress(), device, Precision("fp32", device))
        step = GroupStep(state, task, BatchSplit(size, size), Session(device.read_memory))
        for _ in range(steps):
            step.train([LENGTHS.index(length)] * size, 0, train.learning_rate, train.max_grad_norm)
        del model, state, step
        gc.collect()
    print(base, peak_resident_bytes())


def costs(name: str, took_s: float, query_s: float) -> list[Row]:
    """What a plan takes, beside the aims."""
    return [
        row(f"{name}: a plan after imports, CPU-s", took_s, 5, "aim", "ours", "<=", 5),
        row(f"{name}: a further question, CPU-ms", query_s * 1000, 1, "aim", "ours", "<=", 1),
    ]


def measure(quick: bool) -> list[Row]:
    """Models one after the other, on one device."""
    torch.set_num_threads(1)
    rows = host_rows({"BERT-tiny": HOST_SIZES["BERT-tiny"][:1]} if quick else HOST_SIZES)
    plans = plan_all(quick)
    device = SimulatedDevice(UNLIMITED)
    note = device.start()
    if note:
        sys.stderr.write(f"{note}\n")
    for name in list(MODELS)[: 1 if quick else None]:
        for way in WAYS:
            rows += compare(name, device, way, BATCHES[:2] if quick else BATCHES)
    rows += task_rows(plans, device)
    why = (
        not_measured("no CUDA device was at hand") if not torch.cuda.is_available() else not_measured("not written yet")
    )
    rows.append(row("CUDA: error of the peak, median %", why, 2, "aim", "ours", "<=", 2.0))
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--resident"]:
        train_here(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        sys.exit(main("plan_accuracy", __doc__ or "", measure))

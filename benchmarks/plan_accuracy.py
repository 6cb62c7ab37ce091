"""`memdash plan` beside what training really takes: predicted and measured peaks of small BERTs on the simulated device.

The peers are what people go by: 16 bytes a parameter, `accelerate estimate-memory`, and a polynomial in batch and length
through the measured peaks of the very sizes that the plan traces. BERT-base is planned, too, only to see what that costs.
"""

from __future__ import annotations

import gc
import importlib.util
import statistics
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

from benchmarks._table import Row, Value, main, not_measured, row
from memdash.agent.session import Session
from memdash.batching import BatchSplit
from memdash.config import TrainSection
from runner.device import Batch
from runner.optimizer import make_optimizer
from runner.planning.estimate import PROBED_BATCHES, Estimator
from runner.planning.tracer import Tracer
from runner.precision import Precision
from runner.simulated import SimulatedDevice
from runner.step import GroupStep
from runner.training_state import Progress, TrainingState

BATCHES = (1, 2, 4, 8, 16)
LENGTHS = (32, 64, 128, 256)
MODELS = {"BERT-tiny": (2, 128), "BERT-mini": (4, 256)}
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


def planned(task: Texts) -> tuple[Estimator, float, float]:
    """The plan, the CPU-seconds that it took, the model's own included, and those of one further question."""
    began_s = time.process_time()
    tracer = Tracer(task, task.build_model(), TrainSection())
    estimator = Estimator(lambda batch, length: tracer.trace(batch, LENGTHS.index(length)), LENGTHS, max(BATCHES))
    took_s = time.process_time() - began_s
    began_s = time.process_time()
    for batch in range(100, 100 + NUM_QUERIES):
        estimator.step(batch, LENGTHS[-1], 1)
    return estimator, took_s, (time.process_time() - began_s) / NUM_QUERIES


def measured(task: Texts, device: SimulatedDevice, points: Sequence[Point]) -> dict[Point, int]:
    """Peaks of real steps, of the device that has counted since before the model was there."""
    gc.collect()
    base = device.read_memory().allocated_bytes or 0
    with device.host():
        model = task.build_model()
    device.place(model)
    train = TrainSection()
    state = TrainingState(model, make_optimizer(model, train), Progress(), device, Precision("fp32", device))
    peaks = {}
    for batch, length in points:
        step = GroupStep(state, task, BatchSplit(batch, batch), Session(device.read_memory))
        gc.collect()
        device.read_memory()
        step.train([LENGTHS.index(length)] * batch, 0, train.learning_rate, train.max_grad_norm)
        peaks[batch, length] = (device.read_memory().peak_allocated_bytes or 0) - base
    return peaks


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


def compare(name: str, device: SimulatedDevice, batches: Sequence[int]) -> list[Row]:
    """All that is said of one model."""
    task = Texts(*MODELS[name])
    estimator, took_s, query_s = planned(task)
    small, large = PROBED_BATCHES
    check = (max(BATCHES), LENGTHS[len(LENGTHS) // 2])
    traced = [(small, LENGTHS[0]), (small, LENGTHS[-1]), (large, LENGTHS[-1]), check]
    points = [(batch, length) for length in LENGTHS for batch in batches]
    peaks = measured(task, device, sorted({*points, *traced}))
    fit = polynomial({point: peaks[point] for point in traced})
    peaks = {point: peaks[point] for point in points}
    model = task.build_model()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    accelerated = accelerate_bytes(model)
    ours = errors(lambda batch, length: estimator.step(batch, length, 1).bytes, peaks)
    peers: dict[str, tuple[Value, Value]] = {
        "16 bytes a parameter": errors(lambda batch, length: 16.0 * parameters, peaks),
        "polynomial through our sizes": errors(fit, peaks),
        "accelerate estimate-memory": errors(lambda batch, length: accelerated or 0.0, peaks)
        if accelerated
        else (not_measured("accelerate is not installed"),) * 2,
    }
    rows = []
    for peer, (median, worst) in peers.items():
        rows.append(row(f"{name}: error of the peak, median %", ours[0], median, peer, "ours", "<=", 0.1))
        rows.append(row(f"{name}: error of the peak, worst %", ours[1], worst, peer, "ours", "<=", 1.0))
    return [*rows, *costs(name, took_s, query_s)]


def costs(name: str, took_s: float, query_s: float) -> list[Row]:
    """What a plan takes, beside the aims."""
    return [
        row(f"{name}: a plan after imports, CPU-s", took_s, 5, "aim", "ours", "<=", 5),
        row(f"{name}: a further question, CPU-ms", query_s * 1000, 1, "aim", "ours", "<=", 1),
    ]


def measure(quick: bool) -> list[Row]:
    """Models one after the other, on one device."""
    torch.set_num_threads(1)
    device = SimulatedDevice(UNLIMITED)
    note = device.start()
    if note:
        sys.stderr.write(f"{note}\n")
    rows: list[Row] = []
    for name in list(MODELS)[: 1 if quick else None]:
        rows += compare(name, device, BATCHES[:4] if quick else BATCHES)
    if not quick:
        with device.host():
            _, took_s, query_s = planned(Texts(12, 768))
        rows += costs("BERT-base", took_s, query_s)
    return rows


if __name__ == "__main__":
    sys.exit(main("plan_accuracy", __doc__ or "", measure))

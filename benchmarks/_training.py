"""What every side of `recovery` trains: the same small BERT, examples, device, and a ledger of what was trained."""

from __future__ import annotations

import gc
import importlib.util
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import BertConfig, BertForSequenceClassification

from runner.device import Batch
from runner.simulated import SimulatedDevice

GROUP = 16
LEARNING_RATE = 1e-3
MAX_GRAD_NORM = 1.0
VOCABULARY = 200
UNLIMITED = 1 << 40


@dataclass(frozen=True)
class Workload:
    """Short examples, and in the middle of the epoch one group of long ones, as rare outliers are."""

    num_groups: int
    short: int
    long: int
    width: int
    layers: int

    name = "classification"
    item_name = "examples"
    validation_lengths: tuple[int, ...] = ()

    @property
    def num_examples(self) -> int:
        """All of them are trained once in a run."""
        return self.num_groups * GROUP

    @cached_property
    def train_lengths(self) -> list[int]:
        """In the order in which every side trains them."""
        middle = self.num_groups // 2
        return [self.long if index // GROUP == middle else self.short for index in range(self.num_examples)]

    @cached_property
    def examples(self) -> list[dict[str, Tensor]]:
        """Random tokens; the class is what their sum says."""
        generator = torch.Generator().manual_seed(2)
        rows = [torch.randint(1, VOCABULARY, (length,), generator=generator) for length in self.train_lengths]
        return [
            {"input_ids": row, "labels": row.sum() % 2, "index": torch.tensor(index)} for index, row in enumerate(rows)
        ]

    def batch(self, examples: Sequence[dict[str, Tensor]]) -> Batch:
        """Padded to the longest."""
        tokens = nn.utils.rnn.pad_sequence([example["input_ids"] for example in examples], batch_first=True)
        labels = torch.stack([example["labels"] for example in examples])
        index = torch.stack([example["index"] for example in examples])
        return {"input_ids": tokens, "attention_mask": (tokens != 0).long(), "labels": labels, "index": index}

    # ---- as the runner asks for a task ----

    def build_model(self) -> BertForSequenceClassification:
        """The same weights every time; fp64 and no dropout, so that only a different training makes a difference."""
        torch.manual_seed(0)
        width, long = self.width, self.long
        config = BertConfig(
            vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=self.layers, num_attention_heads=4,
            intermediate_size=4 * width, max_position_embeddings=long, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        return BertForSequenceClassification(config).double()

    def collate(self, part: str, indices: Sequence[int], epoch: int) -> Batch:
        """One micro-batch."""
        return self.batch([self.examples[index] for index in indices])

    def count_items(self, batch: Batch) -> int:
        """Examples."""
        return len(batch["labels"])

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Over the examples."""
        loss: Tensor = model(**batch).loss
        return loss * len(batch["labels"])

    def metric_sums(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Nothing is evaluated."""
        return {}

    def save_files(self, model: nn.Module, folder: Path) -> None:
        """Nothing is saved."""


WORKLOAD = Workload(num_groups=32, short=48, long=192, width=128, layers=4)
QUICK = Workload(num_groups=12, short=24, long=96, width=64, layers=2)


@dataclass
class Ledger:
    """Which examples each optimizer step trained, seen from below: a forward's input and the optimizer's own hook.

    Examples of a forward or backward that ran out of memory are dropped: nothing was learned from them.
    """

    device: SimulatedDevice
    commits: list[list[int]] = field(default_factory=list)
    """The examples of each optimizer step, in any model of this run."""
    model_began: int = 0
    """The first commit of the model that the run ends with; a side may start over with a new one."""
    ooms_at: list[int] = field(default_factory=list)
    """How many commits there were at each OOM."""
    _pending: list[int] = field(default_factory=list)

    def model(self, workload: Workload) -> BertForSequenceClassification:
        """A new model on the device that tells the ledger what it is fed."""
        self.model_began = len(self.commits)
        with self.device.host():
            model = workload.build_model()
        self.device.place(model)
        model.register_forward_pre_hook(self._fed, with_kwargs=True)
        return model

    def _fed(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._forget_failed()
        kwargs = dict(kwargs)
        self._pending += kwargs.pop("index").tolist()
        return args, kwargs

    def _forget_failed(self) -> None:
        new = self.device.read_memory().num_ooms - len(self.ooms_at)
        if new:
            self.ooms_at += [len(self.commits)] * new
            self._pending.clear()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Every optimizer's steps are commits in this scope."""

        def committed(*_: Any) -> None:
            self.commits.append(list(self._pending))
            self._pending.clear()

        handle = register_optimizer_step_post_hook(committed)
        try:
            yield
        finally:
            handle.remove()

    def times_trained(self, *, in_final_model: bool) -> Counter[int]:
        """Of each example, by the optimizer steps of the whole run or of the model that it ends with."""
        commits = self.commits[self.model_began :] if in_final_model else self.commits
        return Counter(index for commit in commits for index in commit)

    def steps_redone(self) -> int:
        """Optimizer steps whose examples were all trained again later."""
        later: set[int] = set()
        redone = 0
        for commit in reversed(self.commits):
            redone += bool(commit) and later.issuperset(commit)
            later.update(commit)
        return redone

    def batch_after_oom(self) -> int:
        """Examples of the usual optimizer step after the last OOM."""
        after = self.commits[self.ooms_at[-1] if self.ooms_at else 0 :]
        return Counter(map(len, after)).most_common(1)[0][0]


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    ledger: Ledger
    weights: dict[str, Tensor]
    loss: float
    """Mean over all examples, by the model that the run ends with."""
    cpu_s: float


Side = Callable[[Workload, Ledger, SimulatedDevice], nn.Module]
"""Trains one epoch and returns the model."""


def outcome(side: Side, workload: Workload, capacity_bytes: int) -> Outcome:
    """Run one side on a device of this capacity."""
    assert workload.examples  # made before the device is there, so that they are not its memory
    gc.collect()
    device = SimulatedDevice(capacity_bytes)
    device.start()
    ledger = Ledger(device)
    try:
        with ledger.watching():
            began_s = time.process_time()
            model = side(workload, ledger, device)
            cpu_s = time.process_time() - began_s
    finally:
        device.stop()
    weights = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    with torch.no_grad():
        batches = [range(start, start + GROUP) for start in range(0, workload.num_examples, GROUP)]
        model.eval()
        loss = sum(float(workload.loss_sum(model, workload.collate("train", b, 0))) for b in batches)
    return Outcome(ledger, weights, loss / workload.num_examples, cpu_s)


def largest_difference(left: Outcome, right: Outcome) -> float:
    """Over all parameters."""
    return max(float((left.weights[name] - right.weights[name]).abs().max()) for name in left.weights)


def is_installed(package: str) -> bool:
    """Without importing it."""
    return importlib.util.find_spec(package) is not None

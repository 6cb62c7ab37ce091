"""Optimizers whose memory is there from the start, the learning rate as a function of the step, and the guarded commit."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim import SGD, Adafactor, AdamW, Optimizer

from memdash.config import TrainSection
from runner.device import HostScope
from runner.eight_bit import make_adamw8bit, state_of
from runner.precision import Precision

IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "for-loop": {"foreach": False, "fused": False},
}
AUTO = {
    "adamw": "fused",
    "sgd": "fused",
    "adafactor": "for-loop",
    "adamw8bit": "for-loop",
}  # the least memory beside the state


def make_optimizer(model: nn.Module, train: TrainSection) -> Optimizer:
    """The config's optimizer over what is trainable, without decay on biases and norms, its state made and zero.

    Fused by default, because that update needs no temporary memory: an out-of-memory error in mid-update cannot happen.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    how: dict[str, Any] = IMPLEMENTATIONS[_implementation(train)]
    optimizer: Optimizer
    if train.optimizer == "adamw8bit":
        return make_adamw8bit(groups, train.learning_rate)
    if train.optimizer == "adamw":
        optimizer = AdamW(groups, lr=train.learning_rate, **how)
    elif train.optimizer == "sgd":
        optimizer = SGD(groups, lr=train.learning_rate, momentum=train.momentum, **how)
        if how.get("fused"):
            optimizer.register_step_pre_hook(_count_a_write)
    else:
        optimizer = Adafactor(groups, lr=train.learning_rate, foreach=how["foreach"])
    make_state(optimizer, train)
    return optimizer


def make_state(optimizer: Optimizer, train: TrainSection) -> None:
    """Allocate what the first `step()` would, so that the first step is no surprise.

    Exactly as the optimizer would find it: `step` 0. A dummy step would leave 1, and the bias correction of the first
    real update would be that of the second: https://github.com/pytorch/torchtitan/issues/4382
    """
    for parameter in _parameters(optimizer):
        if entry := _state_of(parameter, train):
            optimizer.state[parameter] = entry


def state_bytes(model: nn.Module, train: TrainSection) -> int:
    """Of the optimizer's state, without making it."""
    shapes = [parameter.to("meta") for parameter in model.parameters() if parameter.requires_grad]
    tensors = [tensor for shape in shapes for tensor in _state_of(shape, train).values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def state_on_device(optimizer: Optimizer) -> Iterator[Tensor]:
    """The state's tensors without those that live on the host wherever the model is: counts of unfused steps."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for name, tensor in optimizer.state.get(parameter, {}).items():
                if name != "step" or group.get("fused"):
                    yield tensor


def _implementation(train: TrainSection) -> str:
    return AUTO[train.optimizer] if train.optimizer_impl == "auto" else train.optimizer_impl


def _state_of(parameter: Tensor, train: TrainSection) -> dict[str, Tensor]:
    """One parameter's, under the names that its optimizer gives it."""
    if train.optimizer == "adamw8bit":
        return state_of(parameter)
    if train.optimizer == "sgd":
        return {"momentum_buffer": torch.zeros_like(parameter)} if train.momentum else {}
    where = parameter.device if _implementation(train) == "fused" else "cpu"
    step = torch.zeros((), dtype=torch.float32, device=where)
    if train.optimizer == "adamw":
        return {"step": step, "exp_avg": torch.zeros_like(parameter), "exp_avg_sq": torch.zeros_like(parameter)}
    if parameter.ndim < 2:
        return {"step": step, "variance": torch.zeros_like(parameter)}
    *rest, rows, columns = parameter.shape
    row_var, col_var = parameter.new_zeros((*rest, rows, 1)), parameter.new_zeros((*rest, 1, columns))
    return {"step": step, "row_var": row_var, "col_var": col_var}


def _count_a_write(optimizer: Optimizer, *_: Any) -> None:
    """The fused kernel of SGD counts none of its writes, and without a count a torn update would look like none."""
    increment_version(_parameters(optimizer))


@dataclass(frozen=True)
class Plan:
    """How long a run is, and its learning rate at every step."""

    num_examples: int
    global_batch: int
    train: TrainSection

    @property
    def steps_per_epoch(self) -> int:
        """The short last group of an epoch is a step of its own."""
        return -(-self.num_examples // self.global_batch)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.train.max_steps or max(1, math.ceil(self.train.epochs * self.steps_per_epoch))

    def learning_rate(self, step: int) -> float:
        """For the step after `step` committed ones; a function of nothing else, so there is no scheduler to save."""
        train = self.train
        if step < train.warmup_steps:
            return train.learning_rate * (step + 1) / train.warmup_steps
        if train.schedule == "constant":
            return train.learning_rate
        done = (step - train.warmup_steps) / max(1, self.total_steps - train.warmup_steps)
        share = 1 - done if train.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return train.learning_rate * max(0.0, share)


@dataclass(frozen=True)
class Commit:
    """What an update came to."""

    grad_norm: float
    """Before clipping."""
    updated: bool
    """False when a gradient overflowed in fp16, so that nothing was changed."""


def commit(
    optimizer: Optimizer, precision: Precision, learning_rate: float, max_grad_norm: float, host: HostScope
) -> Commit:
    """Clip over the whole group, then update. Never inside a retry: see Versions."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    precision.unscale(optimizer)
    gradients = [p.grad for p in _parameters(optimizer) if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if max_grad_norm:
        nn.utils.clip_grads_with_norm_(_parameters(optimizer), max_grad_norm, norm)
    with scratch(optimizer, host):
        updated = precision.step(optimizer)
    return Commit(float(norm), updated)


def scratch(optimizer: Optimizer, host: HostScope) -> contextlib.AbstractContextManager[None]:
    """The scope of an update: a fused one takes no device memory, the scalars it makes on the way are the CPU's."""
    fused = all(group.get("fused") for group in optimizer.param_groups)
    return host() if fused else contextlib.nullcontext()


class Versions:
    """Tells an update that never began from one that is torn, by the versions that in-place writes count up.

    A fused kernel does not count its writes to parameters, but before one starts AdamW counts `step` up, and SGD's
    writes are counted for it.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._before = self._now()

    def advanced(self) -> bool:
        """Whether anything was written since."""
        return self._now() != self._before

    def _now(self) -> list[int]:
        state = self._optimizer.state
        versions = [p._version for p in _parameters(self._optimizer)]
        return versions + [tensor._version for entry in state.values() for tensor in entry.values()]


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]

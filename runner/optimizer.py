"""AdamW whose memory is there from the start, the learning rate as a function of the step, and the guarded commit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from memdash.config import TrainSection
from runner.device import HostScope
from runner.precision import Precision


def make_optimizer(model: nn.Module, train: TrainSection) -> AdamW:
    """AdamW over what is trainable, without decay on biases and norms, its state made and zero.

    Fused, because that update needs no temporary memory: an out-of-memory error in mid-update cannot happen.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    optimizer = AdamW(groups, lr=train.learning_rate, fused=True)
    make_state(optimizer)
    return optimizer


def make_state(optimizer: AdamW) -> None:
    """Allocate what the first `step()` would, so that the first step is no surprise.

    Exactly as AdamW would find it: `step` 0. A dummy step would leave 1, and the bias correction of the first real
    update would be that of the second: https://github.com/pytorch/torchtitan/issues/4382
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                "exp_avg_sq": torch.zeros_like(parameter, memory_format=torch.preserve_format),
            }


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
    optimizer: AdamW, precision: Precision, learning_rate: float, max_grad_norm: float, host: HostScope
) -> Commit:
    """Clip over the whole group, then update. Never inside a retry: see Versions."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    precision.unscale(optimizer)
    gradients = [p.grad for p in _parameters(optimizer) if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if max_grad_norm:
        nn.utils.clip_grads_with_norm_(_parameters(optimizer), max_grad_norm, norm)
    with host():  # the fused update takes no device memory; the scalars it makes on the way are the CPU's
        updated = precision.step(optimizer)
    return Commit(float(norm), updated)


class Versions:
    """Tells an update that never began from one that is torn, by the versions that in-place writes count up.

    A fused kernel does not count its writes to parameters, but AdamW counts `step` up before it starts one.
    """

    def __init__(self, optimizer: AdamW) -> None:
        self._optimizer = optimizer
        self._before = self._now()

    def advanced(self) -> bool:
        """Whether anything was written since."""
        return self._now() != self._before

    def _now(self) -> list[int]:
        state = self._optimizer.state
        versions = [p._version for p in _parameters(self._optimizer)]
        return versions + [tensor._version for entry in state.values() for tensor in entry.values()]


def _parameters(optimizer: AdamW) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]

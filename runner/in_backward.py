"""The optimizer's update inside the backward: of each parameter as soon as its gradient is there, which is then freed."""

from __future__ import annotations

import math
import weakref
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from memdash.config import TrainSection
from memdash.errors import UsageError
from runner.device import HostScope
from runner.optimizer import Versions, scratch

if TYPE_CHECKING:
    from torch.optim import Optimizer

WHOLE_ONLY = "train.optimizer_in_backward trains a step in one slice: the first would have updated the weights already"


class InBackward:
    """All gradients never live at once; the weights are to the bit those of an update after the backward, unclipped.

    What fails after the first parameter is updated leaves a torn step behind: it must never be done again.
    """

    def __init__(self, optimizer: Optimizer, host: HostScope) -> None:
        self._optimizer = optimizer
        self._host = host
        self._norms: dict[int, Tensor] = {}
        self._versions = Versions(optimizer)
        # Python's collector does not see what a hook holds: it would keep model and optimizer for ever.
        mine = weakref.ref(self)
        for number, group in enumerate(optimizer.param_groups):
            for parameter in group["params"]:
                parameter.register_post_accumulate_grad_hook(partial(_call, mine, number))

    @classmethod
    def of(cls, optimizer: Optimizer, train: TrainSection, host: HostScope) -> InBackward | None:
        """Where the config asks for it; from then on every backward updates."""
        return cls(optimizer, host) if train.optimizer_in_backward else None

    def begin(self, learning_rate: float) -> None:
        """The next backward is that of a new step."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._versions = Versions(self._optimizer)

    def begin_slice(self) -> None:
        """Every parameter may be updated once more."""
        self._norms.clear()

    def has_written(self) -> bool:
        """Whether anything was updated since `begin`."""
        return self._versions.advanced()

    def grad_norm(self) -> float:
        """Over all gradients of the last backward; takes no device memory."""
        return math.hypot(*map(float, self._norms.values()))

    def update(self, number: int, parameter: Tensor) -> None:
        """Of a parameter of that group, whose gradient is complete; called by autograd."""
        assert parameter.grad is not None
        if id(parameter) in self._norms:
            raise UsageError(
                "train.optimizer_in_backward = true: a parameter's gradient came in two parts, and the first is used up",
                hint="reentrant checkpointing of shared layers does this; train.optimizer_in_backward = false accumulates",
            )
        self._norms[id(parameter)] = torch.linalg.vector_norm(parameter.grad)
        groups = self._optimizer.param_groups
        self._optimizer.param_groups = [{**groups[number], "params": [parameter]}]
        try:
            with scratch(self._optimizer, self._host):
                self._optimizer.step()
        finally:
            self._optimizer.param_groups = groups
        parameter.grad = None


def _call(in_backward: weakref.ref[InBackward], number: int, parameter: Tensor) -> None:
    found = in_backward()
    if found is not None:
        found.update(number, parameter)

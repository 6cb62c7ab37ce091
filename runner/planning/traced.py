"""Traces a task's step under one config after the other: each on a copy of one model that has no memory."""

from __future__ import annotations

import copy
import time
from typing import TYPE_CHECKING

from memdash.config import RunConfig
from runner.adapt import adapt
from runner.planning.configuration import Configuration
from runner.planning.estimate import Estimator
from runner.planning.room import Room
from runner.planning.tracer import FakeDevice, Tracer, fake_mode
from runner.slicing import Slicing
from runner.tasks.protocol import Task

if TYPE_CHECKING:
    from torch import nn


class Tracing:
    """Takes a real model, whose memory is free once nobody else holds it."""

    def __init__(self, task: Task, model: nn.Module, room: Room) -> None:
        self.num_traces = 0
        self.cpu_s = 0.0
        self._task = task
        self._room = room
        self._fake = fake_mode()
        FakeDevice(self._fake).place(model)
        self._model = model
        self._trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        self._index = {length: index for index, length in enumerate(task.train_lengths)}

    def trace(self, config: RunConfig, *, is_checked: bool = True) -> tuple[Configuration, Tracer]:
        """Raises MemdashError where a config asks for what the model cannot do, or its step cannot be traced."""
        began_s = time.process_time()
        model = self._copy()
        adapt(model, config)
        model.train()
        tracer = Tracer(self._task, model, config.train, fake=self._fake, as_cuda=self._room.holder == "cuda")
        estimator = Estimator(
            lambda batch, length: tracer.trace(batch, self._index[max(length, min(self._index))]),
            self._task.train_lengths,
            config.train.global_batch,
            self._room.granularity,
            self._room.holder,
            is_checked=is_checked,
        )
        self.num_traces += tracer.num_traces
        self.cpu_s += time.process_time() - began_s
        return Configuration(config, Slicing.of(self._task, config.data), self._room, estimator), tracer

    def _copy(self) -> nn.Module:
        """Of the modules; the tensors are the same, and as trainable as at first."""
        for parameter, is_trained in self._trained:
            parameter.requires_grad_(is_trained)
        tensors = (*self._model.parameters(), *self._model.buffers())
        return copy.deepcopy(self._model, {id(tensor): tensor for tensor in tensors})

"""Metrics on the validation examples, leaving no trace: generators restored, commands obeyed, OOMs only shrink its batch."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import torch

from memdash.agent.session import Session
from runner.oom import OutOfMemory, attempt, note_memory
from runner.randomness import RngState
from runner.slicing import Slicing, make
from runner.tasks.protocol import Task, finish_metrics
from runner.training_state import TrainingState


class Evaluation:
    """Runs the validation part; remembers a batch size that fits."""

    def __init__(self, state: TrainingState, task: Task, session: Session, slicing: Slicing | None = None) -> None:
        self._slicing = slicing or Slicing(())
        self._state = state
        self._task = task
        self._session = session
        self._largest = len(task.validation_lengths)
        self.metrics: dict[str, float] = {}
        """Of the last evaluation."""
        self.rng_before: RngState | None = None
        """The generators as they were before the evaluation in progress; a checkpoint saved meanwhile holds these."""

    def run(self, micro_batch: int) -> bool:
        """Report the metrics; False when a Stop came meanwhile."""
        count = len(self._task.validation_lengths)
        with self._state.device.host():
            self.rng_before = rng = RngState.capture()
        was_training = self._state.model.training
        self._state.model.eval()
        try:
            with self._session.phase("evaluating"):
                sums, num_items, going = self._add_up(count, min(micro_batch, self._largest))
                if going and num_items:
                    self.metrics = finish_metrics(self._task, sums, num_items)
                    self._session.evaluated(self.metrics, count)
        finally:
            self._state.model.train(was_training)
            rng.restore()
            self.rng_before = None
        return going

    def _add_up(self, count: int, batch_size: int) -> tuple[dict[str, float], int, bool]:
        """Sums over all items, their number, and whether to go on; no items when not even one example fits."""
        sums: dict[str, float] = defaultdict(float)
        num_items = start = 0
        while start < count:
            if not self._session.obey():
                return sums, 0, False
            indices = range(start, min(start + batch_size, count))
            found = attempt(partial(self._one, indices))
            if isinstance(found, OutOfMemory):
                batch_size = self._shrink(note_memory(found, self._state.device), batch_size)
                if not batch_size:
                    return sums, 0, True
                continue
            for name, value in found[0].items():
                sums[name] += value
            num_items += found[1]
            start += len(indices)
        return sums, num_items, True

    @torch.no_grad()
    def _one(self, indices: Sequence[int]) -> tuple[dict[str, float], int]:
        sums: dict[str, float] = defaultdict(float)
        with self._state.device.host():
            lengths = self._task.validation_lengths
            requests = self._slicing.requests(indices, 0, lengths=lengths)
            batches = [make(self._task, "validation", request) for request in requests]
            num_items = sum(map(self._task.count_items, batches))
        for batch in batches:
            with self._state.precision.autocast():
                found = self._task.metric_sums(self._state.model, self._state.device.put(batch))
            for name, value in found.items():
                sums[name] += value
        return sums, num_items

    def _shrink(self, failure: OutOfMemory, batch_size: int) -> int:
        """Half the batch, for evaluation only; 0 when one example does not fit, which training survives."""
        smaller = batch_size // 2
        if smaller:
            self._session.report_oom(
                where="evaluation",
                micro_batch=batch_size,
                next_micro_batch=smaller,
                message=failure.message,
                requested_bytes=failure.requested_bytes,
                memory=failure.memory,
            )
        else:
            self._session.notice(f"evaluation skipped: one example does not fit: {failure.message}", level="error")
        gc.collect()
        self._state.device.empty_cache()
        self._largest = max(1, smaller)
        return smaller

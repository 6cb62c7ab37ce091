"""One optimizer step that survives running out of memory: forward and backward of a group, then the commit.

The group is redone as a whole, on the same examples, with the same random numbers, so that a recovered step at an
unchanged split is bitwise the step that would have been.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from memdash.agent.session import Session
from memdash.batching import BatchSplit, next_smaller
from memdash.errors import UsageError
from memdash.units import format_bytes
from runner.growth import Growth, Thrashing
from runner.in_backward import WHOLE_ONLY
from runner.loading import InTurn, Loading
from runner.oom import OutOfMemory, OutOfMemoryStop, Snapshot, attempt, next_micro_batch, note_memory
from runner.optimizer import Versions, commit
from runner.slicing import Request, Slicing
from runner.tasks.protocol import Batch, Task
from runner.training_state import TrainingState

if TYPE_CHECKING:
    from torch import Tensor

MAX_RECOVERIES = 100  # a run that needs more makes no progress worth having; a person should look at it
MAX_SAME_SIZE = 3  # per size: fragmentation that keeps coming back is not cured by emptying the cache


KEPT = "tensors are kept from step to step, as by a retained graph or a list of losses"
Groups = Callable[[], Iterable[tuple[int, Sequence[int]]]]
"""The epoch and the examples of groups to come."""


@dataclass(frozen=True)
class StepResult:
    """What one committed step came to."""

    loss: float
    """Mean per item over the whole group."""
    grad_norm: float
    num_items: int
    longest: int


class GroupStep:
    """Trains groups; `split` says how the last one was cut and shrinks when one does not fit."""

    def __init__(
        self,
        state: TrainingState,
        task: Task,
        split: BatchSplit,
        session: Session,
        growth: Growth | None = None,
        slicing: Slicing | None = None,
        loading: Loading | None = None,
    ) -> None:
        self.split = split
        self.growth = growth or Growth.start(split.group, split.micro_batch, after=0)
        self.num_recoveries = 0
        self._state = state
        self._task = task
        self._session = session
        self._slicing = slicing or Slicing(task.train_lengths)
        self._loading = loading or InTurn(task)
        self._lengths = self._slicing.told_lengths()
        self._snapshot = Snapshot(state.model, state.device)
        self._same_size: Counter[int] = Counter()
        self._at: Sequence[int] = ()  # the examples of the slice in flight, to name the one that does not fit
        self._longest = 0
        self._recovered = False  # whether the group in flight ran out of memory
        self._caps: dict[int, int] = {}
        self._capped = False
        self._try = (0, "")  # the size before a larger one that is being tried, and why it is
        self._thrashing = Thrashing()

    def ask(self, micro_batch: int) -> None:
        """Cut the groups to come as wanted; what memory taught about other sizes is forgotten. Raises UsageError."""
        if self.why_whole and micro_batch != self.split.group:
            raise UsageError(f"micro-batch {micro_batch}: {self.why_whole}", hint="set it to false to cut the group")
        self.split = self.split.with_micro_batch(micro_batch)
        self.growth = Growth.start(self.split.group, micro_batch, self.growth.after)

    def cap(self, step: int, micro_batch: int) -> None:
        """Cut that step, when it comes, no larger than this. Raises UsageError when it is done already."""
        done = self._state.progress.step
        if step <= done:
            raise UsageError(f"step {step} is done already; the run is at step {done}")
        if micro_batch < 1:
            raise UsageError(f"a micro-batch of {micro_batch} is none")
        self._caps[step] = min(micro_batch, self._caps.get(step, micro_batch))

    def close(self) -> None:
        """No more groups: what prepares them ends."""
        self._loading.close()

    @property
    def why_whole(self) -> str:
        """Why no group is ever cut, in words for a person; empty where they may be."""
        return WHOLE_ONLY if self._state.in_backward else ""

    @property
    def lengths(self) -> Sequence[int]:
        """Of every training example, as forecasts are told it."""
        return self._lengths

    def tells(self, indices: Sequence[int]) -> tuple[int, int]:
        """What forecasts are told of a group as it would be cut now: a length or a number of items, and whose it is."""
        return self._slicing.tells(indices, self.split.micro_batch)

    @property
    def capped_steps(self) -> frozenset[int]:
        """Steps to come that somebody wants to be cut smaller."""
        return frozenset(self._caps)

    @property
    def was_cut(self) -> bool:
        """Whether the last group was trained in smaller slices than it was to be."""
        return self._capped or self._recovered

    def train(
        self,
        indices: Sequence[int],
        epoch: int,
        learning_rate: float,
        max_grad_norm: float,
        groups_after: Groups = tuple,
    ) -> StepResult:
        """One step on exactly these examples. Raises OutOfMemoryStop when nothing is left to try."""
        self._snapshot.take()
        self._longest = max(self._lengths[index] for index in indices)
        self._recovered = tried_commit = False
        self._choose(len(indices))
        if self._state.in_backward:
            self._state.in_backward.begin(learning_rate)
            loss, num_items = self._accumulate(indices, epoch, groups_after)
            self._learn(len(indices), updated=True)
            return StepResult(loss, self._state.in_backward.grad_norm(), num_items, self.tells(indices)[0])
        while True:
            loss, num_items = self._accumulate(indices, epoch, groups_after)
            versions = Versions(self._state.optimizer)
            host = self._state.device.host
            optimizer, precision = self._state.optimizer, self._state.precision
            done = attempt(partial(commit, optimizer, precision, learning_rate, max_grad_norm, host))
            if not isinstance(done, OutOfMemory):
                optimizer.zero_grad(set_to_none=True)
                self._learn(len(indices), updated=done.updated)
                return StepResult(loss, done.grad_norm, num_items, self.tells(indices)[0])
            failure = note_memory(done, self._state.device)
            self._after_failed_commit(failure, torn=versions.advanced(), tried_before=tried_commit)
            tried_commit = True

    # ---- around the group: its size ----

    def _choose(self, count: int) -> None:
        """The size for a group of `count` examples; the short one at the end of an epoch would prove nothing."""
        step = self._state.progress.step + 1
        cap = self._caps.pop(step, self.split.group)
        self._capped = cap < min(count, self.split.micro_batch)
        if self._capped:
            self._resplit(cap, f"step {step} was forecast not to fit")
            return
        if count != self.split.group:
            return
        size = self.growth.choose(self._longest)
        why = self.growth.why(size, self._longest)
        if size > self.growth.settled:
            self._session.notice(f"micro-batch {size} is tried again: {why}")
            self._try = (self.split.micro_batch, why)
            self.split = self.split.with_micro_batch(size)
        else:
            self._resplit(size, why)

    def _learn(self, count: int, *, updated: bool) -> None:
        """What a trained group says about the next ones."""
        if not updated:
            scale, number = self._state.precision.loss_scale, self._state.precision.num_skipped
            text = f"gradients overflowed in fp16: no update for this step, the {number}. so far; loss scale {scale:g}"
            # Halved below 1 it is not the scale that makes them overflow.
            self._session.notice(text, level="warning" if scale < 1 else "info")
        if not self._recovered:
            if self.split.micro_batch > self.growth.settled:
                before, why = self._try
                self._session.split_changed(before, self.split.micro_batch, why)
            self.growth.succeeded(min(self.split.micro_batch, count), self._longest)
        if self._thrashing.seen(self._state.device.num_alloc_retries(), recovered=self._recovered):
            self._shrink_before_oom()

    def _shrink_before_oom(self) -> None:
        """The cache was emptied in group after group, which is slow, and the next step may not fit at all."""
        smaller = next_smaller(self.split.group, self.split.micro_batch)
        if smaller is not None and not self.why_whole:
            self.growth.failed(self.split.micro_batch, self._longest, smaller)
            self._resplit(smaller, "the device's cache had to be emptied in each of the last steps to make room")

    def _resplit(self, micro_batch: int, cause: str) -> None:
        before = self.split.micro_batch
        if micro_batch != before:
            self.split = self.split.with_micro_batch(micro_batch)
            self._session.split_changed(before, micro_batch, cause)

    # ---- scope 1: can be done again ----

    def _accumulate(self, indices: Sequence[int], epoch: int, groups_after: Groups) -> tuple[float, int]:
        """Gradients of the group's mean loss, whatever split it takes; the loss and its number of items."""
        while True:
            requests = self._cut(indices, epoch)
            batches, num_items = self._load(requests, groups_after)
            loss = attempt(partial(self._forward_backward, requests, batches, max(1, num_items)))
            if not isinstance(loss, OutOfMemory):
                return loss, num_items
            # From here on the failed frames are gone, and the memory that they held can be freed.
            self._shrink(note_memory(loss, self._state.device))

    def _cut(self, indices: Sequence[int], epoch: int) -> list[Request]:
        """What goes through the model for a group at the present split."""
        pad_to = self._slicing.pad_to(indices)
        cuts = self._slicing.cut(indices, self.split.micro_batch)
        return [request for cut in cuts for request in self._slicing.requests(cut, epoch, pad_to)]

    def _load(self, requests: Sequence[Request], groups_after: Groups) -> tuple[list[Batch], int]:
        """The whole group on the host, and what its loss is averaged over."""

        def following() -> Iterator[Request]:
            for epoch, indices in groups_after():
                yield from self._cut(indices, epoch)

        with self._state.device.host():
            batches = self._loading.group(requests, following)
            return batches, sum(self._task.count_items(batch) for batch in batches)

    def _forward_backward(self, requests: Sequence[Request], batches: Sequence[Batch], num_items: int) -> float:
        """Every slice's sum over the *group's* items: the same gradient however the group is cut.

        A mean of each slice's mean would weigh the tokens of a short slice more than those of a long one.
        """
        total: Tensor | None = None
        for request, batch in zip(requests, batches, strict=True):
            self._at = request.indices
            if self._state.in_backward:
                self._state.in_backward.begin_slice()
            with self._state.precision.autocast():
                loss = self._task.loss_sum(self._state.model, self._state.device.put(batch)) / num_items
            self._state.precision.scale(loss).backward()  # type: ignore[no-untyped-call]
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return float(total)

    def _shrink(self, failure: OutOfMemory) -> None:
        """Rewind, then choose the split to try next; reported either way. Raises OutOfMemoryStop."""
        if self._state.in_backward and self._state.in_backward.has_written():
            self._report(failure, "optimizer step", None)
            self._rewind()
            raise _torn(failure)
        micro_batch = self.split.micro_batch
        tried_again = self._same_size[micro_batch] >= MAX_SAME_SIZE
        chosen = next_micro_batch(failure, self.split.group, micro_batch, tried_again=tried_again)
        was_a_try = micro_batch > self.growth.settled
        if was_a_try:
            chosen = self.growth.settled
        if self.why_whole and chosen != micro_batch:
            chosen = None
        if failure.poisoned or self.num_recoveries >= MAX_RECOVERIES:
            chosen = None
        self._report(failure, "forward/backward", chosen)
        self._rewind()
        if chosen is None:
            hint = "train.optimizer_in_backward = false lets the group be cut" if self.why_whole else ""
            raise OutOfMemoryStop(self._why_no_further(failure), state_is_whole=True, hint=hint)
        if chosen == micro_batch:
            self._same_size[micro_batch] += 1
        else:
            self.growth.failed(micro_batch, self._longest, chosen)
        self._recovered = True
        self.num_recoveries += not was_a_try  # tries wait longer and longer, so they need no other bound
        self.split = self.split.with_micro_batch(chosen)

    def _why_no_further(self, failure: OutOfMemory) -> str:
        if failure.poisoned:
            return f"the CPU library cannot go on in this process after it ran out of memory: {failure.message}"
        if self.num_recoveries >= MAX_RECOVERIES:
            return f"{MAX_RECOVERIES} out-of-memory errors in one run; the last: {failure.message}"
        if kept := self._kept_bytes():
            room = f" of {format_bytes(self._state.device.capacity_bytes)}"
            return f"{format_bytes(kept)}{room} stay allocated between steps beside weights and optimizer state: {KEPT}"
        index = self._at[0]
        length = self._task.train_lengths[index]
        asked = f"; it asked for {format_bytes(failure.requested_bytes)}" if failure.requested_bytes else ""
        held = f" with {format_bytes(failure.memory.allocated_bytes)} allocated" if failure.memory else ""
        capacity = self._state.device.capacity_bytes
        room = f" of a device of {format_bytes(capacity)}" if capacity else ""
        if self.why_whole:
            count = f"the {len(self._at)} examples of a step, the longest of length {self._longest}, do not fit at once"
            return f"{count}{asked}{held}{room}"
        alone = f"one item of example {index}" if self._slicing.padding == "sequential" else f"example {index} alone"
        return f"{alone}, of length {length}, does not fit at micro_batch 1{asked}{held}{room}"

    def _kept_bytes(self) -> int:
        """What is allocated between two steps that no step can give back; 0 while it is not most of the room."""
        capacity, memory = self._state.device.capacity_bytes, self._state.device.read_memory()
        kept = (memory.allocated_bytes or 0) - self._state.need_bytes("full")
        return kept if capacity and kept > capacity / 2 else 0

    # ---- scope 2: the commit ----

    def _after_failed_commit(self, failure: OutOfMemory, *, torn: bool, tried_before: bool) -> None:
        """Redo the group once when nothing was written; a torn update is never repeated. Raises OutOfMemoryStop."""
        again = not torn and not tried_before and not failure.poisoned
        self._report(failure, "optimizer step", self.split.micro_batch if again else None)
        self._rewind()
        if torn:
            raise _torn(failure)
        if not again:
            raise OutOfMemoryStop(f"no memory for the optimizer step: {failure.message}", state_is_whole=True)
        self._recovered = True
        self.num_recoveries += 1

    # ---- both ----

    def _rewind(self) -> None:
        """As it was before the group: no gradients, the same generators and buffers; then give memory back."""
        self._state.optimizer.zero_grad(set_to_none=True)
        self._state.precision.rewind()
        self._snapshot.restore()
        gc.collect()
        self._state.device.empty_cache()

    def _report(self, failure: OutOfMemory, where: str, chosen: int | None) -> None:
        self._session.report_oom(
            where=where,
            micro_batch=self.split.micro_batch,
            next_micro_batch=chosen,
            message=failure.message,
            requested_bytes=failure.requested_bytes,
            memory=failure.memory,
        )


def _torn(failure: OutOfMemory) -> OutOfMemoryStop:
    why = "out of memory in the middle of an optimizer step: some parameters are updated and others are not"
    hint = "resume from the last full checkpoint"
    return OutOfMemoryStop(f"{why} ({failure.message})", state_is_whole=False, hint=hint)

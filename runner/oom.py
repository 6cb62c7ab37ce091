"""Out of memory: what counts as it, how to catch it so that memory really comes back, and what to try next.

Two scopes, never one. Forward and backward of a whole group can be done again, after rewinding what they changed:
gradients, generators, buffers. `optimizer.step()` cannot: it may have advanced some parameters and not others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from memdash.batching import next_smaller
from memdash.errors import MemdashError
from memdash.units import parse_bytes
from memdash.wire import DeviceMemory
from runner.device import Device
from runner.randomness import RngState

T = TypeVar("T")
Verdict = Literal["oom", "poisoned", "other"]

# Spread over drivers and libraries; no trainer known to us recognises all of them.
OOM_MESSAGES = (
    "out of memory",  # CUDA, CUDA error, CUDA driver error, HIP, MPS backend, Triton Error [CUDA], NCCL
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR",  # what cuDNN says when its workspace does not fit
    "unable to find an engine",
    "DefaultCPUAllocator: can't allocate memory",
)
# oneDNN's code generator never recovers in a thread where it once ran out of memory: only a new process helps.
POISONED_MESSAGES = ("could not create a primitive",)
# After one of these every later CUDA call of the process fails too, whatever is freed.
STICKY_MESSAGES = (
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "unspecified launch failure",
)


@dataclass(frozen=True)
class OutOfMemory:
    """What is kept of an error: words and numbers, so that no traceback keeps the failed frames' tensors alive."""

    message: str
    requested_bytes: int | None = None
    unallocated_bytes: int = 0
    """Reserved by torch but unallocated when it failed."""
    poisoned: bool = False
    memory: DeviceMemory | None = None
    """The allocator when it refused; None where nobody saw it."""

    @property
    def is_fragmentation(self) -> bool:
        """Enough was reserved, only not in one piece: the same size may fit once the cache is empty."""
        return self.requested_bytes is not None and self.unallocated_bytes >= self.requested_bytes


class OutOfMemoryStop(MemdashError):
    """Nothing smaller is left to try; the run stops here, its state whole or not."""

    def __init__(self, message: str, *, state_is_whole: bool, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.state_is_whole = state_is_whole


def attempt(work: Callable[[], T]) -> T | OutOfMemory:
    """`work()`, or what is left of its out-of-memory error; other errors pass.

    The handler only takes notes. Until it is left, the error's traceback holds the failed frames and they hold their
    tensors, so nothing that is freed in the handler is really free: https://github.com/pytorch/pytorch/issues/18853
    """
    try:
        return work()
    except Exception as error:
        verdict = judge(error)
        if verdict == "other":
            raise
        notes = _take_notes(error, poisoned=verdict == "poisoned")
    return notes


def judge(error: BaseException) -> Verdict:
    """Whether an error, or what it was raised from, is an out-of-memory error that can be survived."""
    verdict: Verdict = "other"
    for link in _chain(error):
        text = str(link)
        if any(words in text for words in STICKY_MESSAGES):
            return "other"
        if isinstance(link, (torch.OutOfMemoryError, MemoryError)) or _says(link, text, OOM_MESSAGES):
            verdict = "oom" if verdict == "other" else verdict
        elif _says(link, text, POISONED_MESSAGES):
            verdict = "poisoned"
    return verdict


def _says(error: BaseException, text: str, messages: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError) and any(words in text for words in messages)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those behind it, as Python would print them."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _take_notes(error: BaseException, *, poisoned: bool) -> OutOfMemory:
    text = next((str(link) for link in _chain(error) if str(link)), "") or type(error).__name__
    for link in _chain(error):
        if judge(link) != "other":
            text = str(link) or type(link).__name__
    asked = re.search(r"tried to allocate (\d[\d.]*) ?([KMGT]?i?B|bytes)?(?: \((\d+) bytes\))?", text, re.IGNORECASE)
    spare = re.search(r"(\d[\d.]*) ([KMGT]?i?B) is reserved by PyTorch but unallocated", text)
    requested = None
    if asked:
        requested = int(asked[3]) if asked[3] else _size(asked[1], asked[2] or "")
    first_line = text.strip().splitlines()[0]
    return OutOfMemory(first_line[:500], requested, _size(spare[1], spare[2]) if spare else 0, poisoned)


def _size(number: str, unit: str) -> int:
    return parse_bytes(f"{number.rstrip('.')}{'' if unit == 'bytes' else unit}")


def next_micro_batch(failure: OutOfMemory, group: int, micro_batch: int, *, tried_again: bool) -> int | None:
    """The split to try next: once the same size when fragmentation explains it, else the next smaller equal cut."""
    if failure.is_fragmentation and not tried_again:
        return micro_batch
    return next_smaller(group, micro_batch)


def note_memory(failure: OutOfMemory, device: Device) -> OutOfMemory:
    """The error with the figures of its moment; what failed is not part of the peak of what is tried next."""
    at_oom = device.at_oom()
    device.read_memory()
    if at_oom is None:
        return failure
    return replace(failure, memory=at_oom.memory, requested_bytes=failure.requested_bytes or at_oom.requested_bytes)


class Snapshot:
    """What a forward pass changes besides gradients: the generators and the model's buffers (BatchNorm's statistics).

    Kept on the host, in memory that is allocated once.
    """

    def __init__(self, model: nn.Module, device: Device) -> None:
        self._model = model
        self._device = device
        self._copies: dict[str, tuple[Tensor, Tensor]] = {}
        self.take()

    @torch.no_grad()
    def take(self) -> None:
        """Remember this moment.

        Every buffer is copied: versions do not tell which were written to, since BatchNorm does not count its writes.
        """
        with self._device.host():
            self.rng = RngState.capture()
            for name, buffer in self._model.named_buffers():
                known = self._copies.get(name)
                if known is not None and known[0] is buffer:
                    known[1].copy_(buffer)
                else:
                    self._copies[name] = (buffer, buffer.detach().to("cpu", copy=True))

    @torch.no_grad()
    def restore(self) -> None:
        """Go back to it, also where a module has put another tensor in a buffer's place."""
        self.rng.restore()
        for name, (buffer, copy) in self._copies.items():
            owner, _, leaf = name.rpartition(".")
            self._model.get_submodule(owner)._buffers[leaf] = buffer
            buffer.copy_(copy)

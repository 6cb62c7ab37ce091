"""What counts as out of memory, what is kept of it, and what is tried next."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from runner.device import CpuDevice
from runner.oom import OutOfMemory, Snapshot, attempt, judge, next_micro_batch

CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 14.75 GiB of which 5.06 MiB is free. "
    "Of the allocated memory 13.90 GiB is allocated by PyTorch, and 300.50 MiB is reserved by PyTorch but unallocated."
)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (torch.OutOfMemoryError(CUDA), "oom"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), "oom"),
        (RuntimeError("CUDA driver error: out of memory"), "oom"),
        (RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB"), "oom"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 5.2 GB)"), "oom"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "oom"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"), "oom"),
        (RuntimeError("GET was unable to find an engine to execute this computation"), "oom"),
        (RuntimeError("Triton Error [CUDA]: out of memory"), "oom"),
        (RuntimeError("NCCL error: unhandled cuda error 'out of memory'"), "oom"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 123 bytes"),
            "oom",
        ),
        (MemoryError(), "oom"),
        (RuntimeError("could not create a primitive"), "poisoned"),
        (RuntimeError("CUDA error: device-side assert triggered"), "other"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "other"),
        (RuntimeError("Expected all tensors to be on the same device"), "other"),
        (ValueError("the user wrote: out of memory"), "other"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_which_errors_count(error: Exception, verdict: str) -> None:
    assert judge(error) == verdict


def raised(error: Exception, behind: Exception, *, explicit: bool, hidden: bool = False) -> Exception:
    try:
        try:
            raise behind
        except type(behind) as cause:
            if hidden:
                raise error from None
            if explicit:
                raise error from cause
            raise error  # noqa: B904 - the implicit context is what is tested
    except type(error) as result:
        return result


def test_an_oom_behind_another_error_counts() -> None:
    oom, other = torch.OutOfMemoryError(CUDA), KeyError("x")
    assert judge(raised(other, oom, explicit=True)) == "oom"
    assert judge(raised(KeyError("y"), oom, explicit=False)) == "oom"
    assert judge(raised(KeyError("z"), oom, explicit=False, hidden=True)) == "other"
    sticky = RuntimeError("CUDA error: an illegal memory access was encountered")
    assert judge(raised(torch.OutOfMemoryError(CUDA), sticky, explicit=False)) == "other"


@pytest.mark.parametrize(
    ("message", "requested", "unallocated"),
    [
        (CUDA, 20 << 20, round(300.5 * 2**20)),
        ("Simulated device out of memory. Tried to allocate 0.01 MiB (12345 bytes). The", 12345, 0),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 123 bytes. Error", 123, 0),
        ("CUDA error: out of memory", None, 0),
    ],
)
def test_the_numbers_are_read_from_the_message(message: str, requested: int | None, unallocated: int) -> None:
    def fail() -> None:
        raise RuntimeError(message.replace("Simulated device out", "CUDA out"))

    failure = attempt(fail)
    assert isinstance(failure, OutOfMemory)
    assert (failure.requested_bytes, failure.unallocated_bytes) == (requested, unallocated)


def test_the_failed_frames_tensors_are_free_afterwards() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    def fail() -> None:
        activations = torch.ones(1000)
        alive.append(weakref.ref(activations))
        raise torch.OutOfMemoryError(CUDA)

    failure = attempt(fail)
    gc.collect()
    assert isinstance(failure, OutOfMemory)
    assert alive[0]() is None


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError):
        attempt(lambda: 1 / 0)
    assert attempt(lambda: 5) == 5


def test_what_is_tried_next() -> None:
    full, fragmented = OutOfMemory("x", 100, 50), OutOfMemory("x", 100, 100)
    assert next_micro_batch(full, 16, 16, tried_again=False) == 8
    assert next_micro_batch(full, 12, 5, tried_again=False) == 2
    assert next_micro_batch(full, 16, 1, tried_again=False) is None
    assert next_micro_batch(fragmented, 16, 16, tried_again=False) == 16
    assert next_micro_batch(fragmented, 16, 16, tried_again=True) == 8


def test_a_snapshot_brings_back_buffers_and_generators() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))
    model(torch.randn(4, 3))
    snapshot = Snapshot(model, CpuDevice())
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    drawn = torch.rand(3)
    model(torch.randn(4, 3))
    model[0].running_mean = torch.full((3,), 9.0)  # put in the buffer's place, not written into it
    snapshot.restore()
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())
    assert torch.equal(torch.rand(3), drawn)
    model(torch.randn(4, 3))
    snapshot.restore()
    assert all(torch.equal(before[name], buffer) for name, buffer in model.named_buffers())

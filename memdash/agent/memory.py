"""Reads the allocator of the rank's device, once a step, in the training thread."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

from memdash.wire import DeviceMemory, device_headroom_bytes

MemoryReader = Callable[[], DeviceMemory]
"""Figures now, with peaks since the call before."""


class AtOom(NamedTuple):
    """The allocator at the moment it refused. Whoever catches the error is too late: the failed frames are gone then."""

    requested_bytes: int
    """On CUDA what torch asked of the device: a whole segment."""
    memory: DeviceMemory


def no_device(reason: str, device: str = "cpu") -> MemoryReader:
    """A reader for a process that trains on no device; `reason` tells a person why there are no figures."""
    memory = DeviceMemory(device=device, kind="unavailable", reason=reason)
    return lambda: memory


def cuda_memory(index: int = 0) -> MemoryReader:
    """A reader of torch's CUDA (or ROCm) allocator; every call also restarts the peaks.

    One nested read of the allocator costs 7 µs, where each `torch.cuda.memory_allocated()` flattens all 122
    counters (95 µs).
    """
    import torch

    total_bytes = torch.cuda.get_device_properties(index).total_memory
    joins = joins_fragments()
    read_nested: Callable[[int], dict[str, Any]] = torch.cuda.memory_stats_as_nested_dict

    def read() -> DeviceMemory:
        stats = read_nested(index)
        free_bytes, _ = torch.cuda.mem_get_info(index)
        memory = from_nested_stats(
            stats, f"cuda:{index}", free_bytes, total_bytes, cap_bytes(total_bytes, index), joins=joins
        )
        torch.cuda.reset_peak_memory_stats(index)
        return memory

    return read


class CudaOoms:
    """Notes the figures of torch's CUDA allocator whenever it refuses, before its error travels up."""

    def __init__(self, index: int = 0) -> None:
        self._index = index
        self._last: AtOom | None = None

    def attach(self) -> bool:
        """Begin; False where this torch, or the allocator it was told to use, has no such hook. It stays to the end."""
        import torch

        attach = getattr(torch._C, "_cuda_attach_out_of_memory_observer", None)
        if attach is None:
            return False
        try:
            attach(self._observe)
        except RuntimeError:
            return False
        return True

    def take(self) -> AtOom | None:
        """The last refusal, once."""
        last, self._last = self._last, None
        return last

    def _observe(self, index: int, requested_bytes: int, _allowed_bytes: int, free_bytes: int) -> None:
        import torch

        if index != self._index:
            return
        with contextlib.suppress(Exception):  # an error in here would take the place of torch's own
            total_bytes = torch.cuda.get_device_properties(index).total_memory
            stats = torch.cuda.memory_stats_as_nested_dict(index)
            memory = from_nested_stats(stats, f"cuda:{index}", free_bytes, total_bytes, cap_bytes(total_bytes, index))
            self._last = AtOom(requested_bytes, memory)


def mps_memory() -> MemoryReader:
    """A reader of torch's allocator on Apple's GPUs, whose memory is the machine's. It keeps no peaks.

    The capacity is what Metal recommends; torch goes beyond it, up to PYTORCH_MPS_HIGH_WATERMARK_RATIO times, at the
    price of paging.
    """
    import torch

    capacity_bytes = torch.mps.recommended_max_memory()

    def read() -> DeviceMemory:
        return DeviceMemory(
            device="mps",
            kind="exact",
            capacity_bytes=capacity_bytes,
            allocated_bytes=torch.mps.current_allocated_memory(),
            reserved_bytes=torch.mps.driver_allocated_memory(),
        )

    return read


def tightest(*readers: MemoryReader) -> MemoryReader:
    """A reader for a process on several devices: of each moment the one that is nearest to its capacity."""

    def read() -> DeviceMemory:
        return min([reader() for reader in readers], key=_share_left)

    return read


def _share_left(memory: DeviceMemory) -> float:
    headroom_bytes = device_headroom_bytes(memory)
    return headroom_bytes / memory.capacity_bytes if headroom_bytes is not None and memory.capacity_bytes else 1.0


def joins_fragments() -> bool:
    """Whether torch's CUDA allocator was told to use expandable segments, in the environment or by a call."""
    import torch

    told = getattr(torch._C, "_accelerator_getAllocatorSettings", None)
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")  # of which the first one holds
    settings = told() if told else next((os.environ[name] for name in names if name in os.environ), "")
    words = [word.replace(" ", "") for word in settings.split(",")]
    return "expandable_segments:true" in map(str.lower, words)


def cap_bytes(total_bytes: int, index: int) -> int:
    """Device memory this process may use: its total, or the fraction set for the process."""
    import torch

    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _index: 1.0)(index)
    return int(total_bytes * fraction)


def from_nested_stats(
    stats: dict[str, Any], device: str, free_bytes: int, total_bytes: int, cap_bytes: int, *, joins: bool = False
) -> DeviceMemory:
    """The figures from torch's nested statistics; free and total are the device's.

    The capacity is the lower of the process's cap and what the device has left for it: free + reserved, so that
    other processes and the CUDA context count against it.
    """

    def pick(name: str, field: str) -> int:
        return int(stats.get(name, {}).get("all", {}).get(field, 0))

    reserved_bytes = pick("reserved_bytes", "current")
    return DeviceMemory(
        device=device,
        kind="exact",
        capacity_bytes=min(cap_bytes, free_bytes + reserved_bytes),
        total_bytes=total_bytes,
        free_bytes=free_bytes,
        allocated_bytes=pick("allocated_bytes", "current"),
        reserved_bytes=reserved_bytes,
        active_bytes=pick("active_bytes", "current"),
        inactive_split_bytes=pick("inactive_split_bytes", "current"),
        peak_allocated_bytes=pick("allocated_bytes", "peak"),
        peak_reserved_bytes=pick("reserved_bytes", "peak"),
        num_alloc_retries=int(stats.get("num_alloc_retries", 0)),
        num_ooms=int(stats.get("num_ooms", 0)),
        joins_fragments=joins,
    )

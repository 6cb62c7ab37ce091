"""Where a run trains: CUDA, the plain CPU, or the CPU with a device's memory limit (simulated.py)."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from memdash.agent.memory import AtOom, CudaOoms, cuda_memory, no_device
from memdash.config import DeviceSection
from memdash.errors import UsageError
from memdash.units import format_bytes, parse_bytes
from memdash.wire import DeviceMemory

Batch = dict[str, Tensor]
HostScope = Callable[[], contextlib.AbstractContextManager[None]]
MAX_HISTORY = 100_000  # allocations and frees that torch remembers with their stacks: some hundred MB of host memory
NO_SNAPSHOT = "torch makes memory snapshots of CUDA devices only, not of {}"


class Device(Protocol):
    """What the training loop needs of a device. Tensors made in `host()` are never device memory."""

    name: str
    """As shown: `cuda:0`, `cpu`, `simulated`."""
    torch_type: str
    """As torch calls it: `cuda` or `cpu`."""
    capacity_bytes: int | None
    can_release: bool
    """Whether moving a model to host memory would free anything."""
    no_snapshot: str
    """Why torch has no memory snapshot of it, in words for a person; empty where it has."""

    def start(self) -> str:
        """Make the device ready; a note for the journal, or nothing."""

    def place(self, model: nn.Module) -> None:
        """Move the model from host memory to the device."""

    def put(self, batch: Batch) -> Batch:
        """A copy of one micro-batch on the device."""

    def host(self) -> contextlib.AbstractContextManager[None]:
        """A scope whose new CPU tensors are host memory: data, checkpoints, generator states."""

    def read_memory(self) -> DeviceMemory:
        """Figures now; also restarts the peaks and forgets what was refused."""

    def at_oom(self) -> AtOom | None:
        """The allocator when it last refused since the last reading, once; None where nobody saw it."""

    def empty_cache(self) -> int:
        """Give back what is reserved but unused; the bytes given back."""

    def free_bytes(self) -> int:
        """What could be allocated now."""

    def what_stays(self, reserved_bytes: int) -> str:
        """In words, what this process holds of the device once nothing of the run is left there."""

    def num_alloc_retries(self) -> int:
        """How often the allocator gave its cache back and tried again; unlike `read_memory` it restarts no peaks."""

    def dump_snapshot(self, path: Path) -> None:
        """Write torch's memory snapshot. Raises OSError."""


def open_device(section: DeviceSection, *, record_history: bool = False) -> Device:
    """The device that the config asks for. Raises UsageError when it is not there."""
    if section.kind == "simulated":
        from runner.simulated import SimulatedDevice

        return SimulatedDevice(parse_bytes(section.capacity))
    if torch.cuda.is_available() and section.kind in ("auto", "cuda"):
        return CudaDevice(parse_bytes(section.capacity) if section.capacity else None, record_history=record_history)
    if section.kind == "cuda":
        raise UsageError('device.kind = "cuda": torch finds no CUDA device here', hint='use "cpu" or "simulated"')
    return CpuDevice()


class CpuDevice:
    """No device: the model lives in host memory, which the supervisor watches."""

    name = torch_type = "cpu"
    capacity_bytes: int | None = None
    can_release = False
    no_snapshot = NO_SNAPSHOT.format("the CPU")

    def __init__(self) -> None:
        reason = "no CUDA device here: only host memory is shown"
        if torch.backends.mps.is_available():
            reason += ", and our runner does not train on Apple's GPU"
        self._read = no_device(f'{reason}; set device.kind = "simulated" to rehearse one')

    def start(self) -> str:
        """Nothing to prepare."""
        return ""

    def place(self, model: nn.Module) -> None:
        """It is there already."""

    def put(self, batch: Batch) -> Batch:
        """It is there already."""
        return batch

    def host(self) -> contextlib.AbstractContextManager[None]:
        """All memory is host memory."""
        return contextlib.nullcontext()

    def read_memory(self) -> DeviceMemory:
        """Says why there are no figures."""
        return self._read()

    def at_oom(self) -> AtOom | None:
        """The C library tells nobody."""
        return None

    def empty_cache(self) -> int:
        """Return the C library's free memory to the system."""
        before = resident_bytes()
        trim_host_memory()
        return max(0, before - resident_bytes())

    def free_bytes(self) -> int:
        """Nobody asks: it cannot release."""
        return 0

    def what_stays(self, reserved_bytes: int) -> str:
        """All of it."""
        return "everything stays"

    def num_alloc_retries(self) -> int:
        """The C library has no such figure."""
        return 0

    def dump_snapshot(self, path: Path) -> None:
        """Nobody asks: `no_snapshot` says why."""


class CudaDevice:
    """The first visible CUDA (or ROCm) device, perhaps with a cap on this process."""

    torch_type = "cuda"
    can_release = True
    no_snapshot = ""

    def __init__(self, cap_bytes: int | None = None, index: int = 0, *, record_history: bool = False) -> None:
        self.name = f"cuda:{index}"
        self._index = index
        self._cap_bytes = cap_bytes
        self._record_history = record_history
        self._ooms = CudaOoms(index)
        self._read: Callable[[], DeviceMemory] | None = None
        total = torch.cuda.get_device_properties(index).total_memory
        self.capacity_bytes: int | None = min(total, cap_bytes or total)
        if cap_bytes is not None and cap_bytes > total:
            raise UsageError(f"device.capacity is {format_bytes(cap_bytes)}, but {self.name} has {format_bytes(total)}")

    def start(self) -> str:
        """Make the context, set the cap, begin to read and, where it is wanted, to record who allocates what."""
        torch.cuda.set_device(self._index)
        if self._cap_bytes is not None:
            total = torch.cuda.get_device_properties(self._index).total_memory
            torch.cuda.set_per_process_memory_fraction(self._cap_bytes / total, self._index)
        torch.cuda.init()  # type: ignore[no-untyped-call]
        self._read = cuda_memory(self._index)
        self._ooms.attach()
        if self._record_history:
            torch.cuda.memory._record_memory_history(max_entries=MAX_HISTORY)
        return ""

    def place(self, model: nn.Module) -> None:
        """Copy parameters and buffers over."""
        model.to(self.name)

    def put(self, batch: Batch) -> Batch:
        """Copy one micro-batch over."""
        return {name: tensor.to(self.name, non_blocking=True) for name, tensor in batch.items()}

    def host(self) -> contextlib.AbstractContextManager[None]:
        """CPU tensors are host memory anyway."""
        return contextlib.nullcontext()

    def read_memory(self) -> DeviceMemory:
        """Torch's own figures."""
        assert self._read is not None, "start() comes first"
        self._ooms.take()
        return self._read()

    def at_oom(self) -> AtOom | None:
        """By torch's own hook."""
        return self._ooms.take()

    def empty_cache(self) -> int:
        """Waits for running kernels first, whose memory is not free before they end; the host's is given back as well."""
        trim_host_memory()
        torch.cuda.synchronize(self._index)
        before = torch.cuda.memory_reserved(self._index)
        torch.cuda.empty_cache()
        return before - torch.cuda.memory_reserved(self._index)

    def free_bytes(self) -> int:
        """What the driver has left, within the cap."""
        free, _ = torch.cuda.mem_get_info(self._index)
        return min(free, (self.capacity_bytes or free) - torch.cuda.memory_reserved(self._index))

    def what_stays(self, reserved_bytes: int) -> str:
        """The context belongs to the driver, which tells its size to nobody inside the process."""
        return f"{format_bytes(reserved_bytes)} and the CUDA context stay"

    def num_alloc_retries(self) -> int:
        """Torch's own count."""
        return int(torch.cuda.memory_stats_as_nested_dict(self._index).get("num_alloc_retries", 0))

    def dump_snapshot(self, path: Path) -> None:
        """Torch's own file, a pickle; without a recorded history it holds what is allocated, not by whom."""
        torch.cuda.memory._dump_snapshot(str(path))  # type: ignore[no-untyped-call]


def trim_host_memory() -> None:
    """Ask glibc to return free memory to the system; other C libraries have no such call."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """This process's resident set; 0 where there is no /proc."""
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * 4096
    except OSError:
        return 0

"""A pause that gives the device to others: everything that a run keeps there moves to host memory, and back, bit for bit."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from memdash.errors import MemdashError
from memdash.units import format_bytes
from runner.oom import OutOfMemory, attempt
from runner.optimizer import state_on_device
from runner.training_state import TrainingState

HOST_MARGIN = 1.05  # the rest of the process and its neighbours live there too
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
CGROUP_FILES = (  # v2 and v1: the limit, the usage, and the part of it that is page cache nobody has read lately
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


class Release:
    """Moves by storage, so that tensors that share one still share it wherever it is."""

    def __init__(self, state: TrainingState, available_bytes: Callable[[], int | None] | None = None) -> None:
        self._state = state
        self._available_bytes = available_bytes or available_host_bytes

    def release(self) -> str:
        """To the host; what was given back, in words. Raises MemdashError and leaves all as it was."""
        device, need = self._state.device, self._num_bytes()
        available = self._available_bytes()
        if available is not None and need * HOST_MARGIN > available:
            need_words = format_bytes(round(need * HOST_MARGIN))
            raise MemdashError(
                f"host memory cannot take the model: it needs {need_words}, {format_bytes(available)} are there"
            )
        self._state.optimizer.zero_grad(set_to_none=True)
        before = device.read_memory().reserved_bytes or 0
        copies = attempt(partial(self._copy, self._to_host))
        if isinstance(copies, OutOfMemory):
            raise MemdashError(f"host memory ran out while the model was copied to it: {copies.message}")
        self._point_to(copies)
        del copies
        gc.collect()
        device.empty_cache()
        after = device.read_memory().reserved_bytes or 0
        return f"gave back {format_bytes(before - after)} of {device.name}; {device.what_stays(after)}"

    def restore(self) -> str:
        """To the device; what was taken, in words. Raises MemdashError while there is no room, and stays on the host."""
        device, need = self._state.device, self._num_bytes()
        copies = attempt(partial(self._copy, self._to_device))
        if isinstance(copies, OutOfMemory):
            gc.collect()
            device.empty_cache()
            free = format_bytes(device.free_bytes())
            raise MemdashError(f"{device.name} has no room: the model needs {format_bytes(need)}, {free} are free")
        self._point_to(copies)
        return f"took {format_bytes(need)} of {device.name} again"

    def _tensors(self) -> Iterator[Tensor]:
        model, optimizer = self._state.model, self._state.optimizer
        yield from model.parameters()
        yield from model.buffers()
        yield from state_on_device(optimizer)

    def _num_bytes(self) -> int:
        storages = [tensor.untyped_storage() for tensor in self._tensors()]
        return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())

    def _copy(self, move: Callable[[Tensor], Tensor]) -> dict[int, Tensor]:
        """All storages' bytes elsewhere, by their old address. Nothing refers to a copy yet, so failing is harmless."""
        copies: dict[int, Tensor] = {}
        for tensor in self._tensors():
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in copies:
                with self._state.device.host():
                    flat = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
                copies[storage.data_ptr()] = move(flat)
        return copies

    def _to_host(self, flat: Tensor) -> Tensor:
        with self._state.device.host():
            return flat.to("cpu", copy=True)

    def _to_device(self, flat: Tensor) -> Tensor:
        return self._state.device.put({"": flat})[""]

    @torch.no_grad()
    def _point_to(self, copies: dict[int, Tensor]) -> None:
        """Let every tensor live in its storage's copy, at the same place in it."""
        with self._state.device.host():
            for tensor in self._tensors():
                copy = copies[tensor.untyped_storage().data_ptr()]
                place = (tensor.storage_offset(), tensor.size(), tensor.stride())
                empty = torch.empty(0, dtype=tensor.dtype, device=copy.device)
                tensor.data = empty.set_(copy.untyped_storage(), *place)


def available_host_bytes(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """What the kernel would hand out without swapping, within the container's limit; None where nothing says so."""
    found = [_field(meminfo, "MemAvailable:") * 1024] if meminfo.exists() else []
    for limit_name, usage_name, stat_name, cache_name in CGROUP_FILES:
        limit, usage = _read(cgroup / limit_name).strip(), _read(cgroup / usage_name).strip()
        if limit.isdigit() and usage.isdigit():  # a limit may also be `max`
            used = int(usage) - _field(cgroup / stat_name, cache_name)
            found.append(max(0, int(limit) - used))
    return min(found, default=None)


def _field(path: Path, name: str) -> int:
    """The number after a name at the start of a line; 0 where there is none."""
    return next((int(line.split()[1]) for line in _read(path).splitlines() if line.split()[:1] == [name]), 0)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

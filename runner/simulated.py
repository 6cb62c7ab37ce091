"""The simulated device: the CPU with a device's memory limit, so that a laptop can rehearse a GPU's OOMs.

The allocator is C++ (simulated.cpp), compiled on first use against torch's own headers and kept in the
cache directory. Where there is no compiler, budget.py enforces the same capacity from Python, more slowly.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from memdash.agent.memory import AtOom
from memdash.errors import MemdashError
from memdash.units import format_bytes
from memdash.wire import DeviceMemory
from runner.budget import PythonBudget
from runner.device import NO_SNAPSHOT, Batch, trim_host_memory

SOURCE = Path(__file__).with_name("simulated.cpp")
COMPILE_TIMEOUT_S = 300.0  # 1.2 s on an idle machine; a thrashing one may take very long


class Stats(ctypes.Structure):
    """The figures of the allocator; the same fields in the same order as in simulated.cpp."""

    capacity: int
    allocated: int
    reserved: int
    inactive_split: int
    peak_allocated: int
    peak_reserved: int
    num_alloc_retries: int
    num_ooms: int
    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            "capacity",
            "allocated",
            "reserved",
            "inactive_split",
            "peak_allocated",
            "peak_reserved",
            "num_alloc_retries",
            "num_ooms",
        )
    ]


class Limiter(Protocol):
    """Counts what is allocated and refuses what is over the capacity: the C++ allocator, or the Python budget."""

    def start(self, capacity_bytes: int) -> None:
        """Begin to count and to refuse."""

    def stop(self) -> None:
        """Go back to torch's own allocator; tensors made meanwhile stay valid."""

    def read(self) -> Stats:
        """Figures now; also restarts the peaks and forgets what was refused."""

    def take_refusal(self) -> tuple[int, Stats] | None:
        """The last refusal since the last reading, once: the bytes asked for, and the figures at that moment."""

    def empty_cache(self) -> int:
        """Bytes given back."""

    def host(self) -> contextlib.AbstractContextManager[None]:
        """A scope that is not counted, in this thread."""


class SimulatedDevice:
    """Every CPU tensor made after `start` counts, except in `host()`; the library's scratch memory does not."""

    name = "simulated"
    torch_type = "cpu"
    can_release = True
    no_snapshot = NO_SNAPSHOT.format("the simulated device")

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes: int | None = capacity_bytes
        self._limiter: Limiter | None = None

    def start(self) -> str:
        """Load the allocator, compiling it the first time; the note says when it is only the Python one."""
        assert self.capacity_bytes is not None
        note = ""
        try:
            self._limiter = NativeLimiter(compile_allocator())
        except (MemdashError, OSError) as error:
            self._limiter = PythonBudget()
            note = f"the simulated device counts in Python, more slowly and less exactly: {error}"
        self._limiter.start(self.capacity_bytes)
        return note

    def stop(self) -> None:
        """End the simulation; for tests."""
        if self._limiter is not None:
            self._limiter.stop()

    @property
    def limiter(self) -> Limiter:
        """What counts; raises before `start`."""
        assert self._limiter is not None, "start() comes first"
        return self._limiter

    def place(self, model: nn.Module) -> None:
        """Copy parameters and buffers into counted memory; tied parameters stay tied."""
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        for module in model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.clone()

    def put(self, batch: Batch) -> Batch:
        """A counted copy of one micro-batch."""
        return {name: tensor.clone() for name, tensor in batch.items()}

    def host(self) -> contextlib.AbstractContextManager[None]:
        """Not counted, in this thread."""
        return self._limiter.host() if self._limiter is not None else contextlib.nullcontext()

    def read_memory(self) -> DeviceMemory:
        """Figures labelled simulated; `reserved` follows a simple model of torch's caching allocator."""
        if self._limiter is None:
            return DeviceMemory(device=self.name, kind="simulated", capacity_bytes=self.capacity_bytes)
        return _memory(self._limiter.read())

    def at_oom(self) -> AtOom | None:
        """Kept by what refused."""
        refusal = self._limiter.take_refusal() if self._limiter is not None else None
        return AtOom(requested_bytes=refusal[0], memory=_memory(refusal[1])) if refusal else None

    def empty_cache(self) -> int:
        """Give back the simulated reserve, and what the C library really holds."""
        given_back = self.limiter.empty_cache()
        trim_host_memory()
        return given_back

    def free_bytes(self) -> int:
        """The capacity less what lives."""
        memory = self.read_memory()
        return (memory.capacity_bytes or 0) - (memory.allocated_bytes or 0)

    def what_stays(self, reserved_bytes: int) -> str:
        """There is no context."""
        return f"{format_bytes(reserved_bytes)} stay"

    def num_alloc_retries(self) -> int:
        """Not acted upon: the simulated cache is too simple for its retries to mean that a real one thrashes."""
        return 0

    def dump_snapshot(self, path: Path) -> None:
        """Nobody asks: `no_snapshot` says why."""


def _memory(stats: Stats) -> DeviceMemory:
    """`allocated` is tensors' bytes as asked for, where CUDA's is that of whole blocks of 512 bytes and more."""
    return DeviceMemory(
        device=SimulatedDevice.name,
        kind="simulated",
        capacity_bytes=stats.capacity,
        total_bytes=stats.capacity,
        free_bytes=stats.capacity - stats.reserved,
        allocated_bytes=stats.allocated,
        reserved_bytes=stats.reserved,
        active_bytes=stats.allocated,
        inactive_split_bytes=stats.inactive_split,
        peak_allocated_bytes=stats.peak_allocated,
        peak_reserved_bytes=stats.peak_reserved,
        num_alloc_retries=stats.num_alloc_retries,
        num_ooms=stats.num_ooms,
        joins_fragments=True,  # its limit is on what lives
    )


class NativeLimiter:
    """The C++ allocator, through ctypes."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library))
        self._library.memdash_empty_cache.restype = ctypes.c_int64
        self._library.memdash_take_refusal.restype = ctypes.c_int64

    def start(self, capacity_bytes: int) -> None:
        """Take the place of torch's CPU allocator."""
        self._library.memdash_start(ctypes.c_int64(capacity_bytes))

    def stop(self) -> None:
        """Give torch's CPU allocator its place back."""
        self._library.memdash_stop()

    def read(self) -> Stats:
        """Figures now; also restarts the peaks and forgets what was refused."""
        stats = Stats()
        self._library.memdash_read(ctypes.byref(stats))
        return stats

    def take_refusal(self) -> tuple[int, Stats] | None:
        """The last refusal since the last reading, once."""
        stats = Stats()
        requested_bytes = int(self._library.memdash_take_refusal(ctypes.byref(stats)))
        return (requested_bytes, stats) if requested_bytes else None

    def empty_cache(self) -> int:
        """Bytes given back."""
        return int(self._library.memdash_empty_cache())

    @contextlib.contextmanager
    def host(self) -> Iterator[None]:
        """Not counted, in this thread."""
        self._library.memdash_enter_host()
        try:
            yield
        finally:
            self._library.memdash_leave_host()

    def fail_in(self, allocations: int) -> None:
        """Let the nth allocation from now on fail once, as when another process takes memory for a moment."""
        self._library.memdash_fail_in(ctypes.c_int64(allocations))


def cache_dir() -> Path:
    """What can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "memdash"


def compile_allocator() -> Path:
    """The compiled allocator for this torch, made when it is not in the cache. Raises MemdashError."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    library = cache_dir() / f"simulated-{torch.__version__}-{digest}.so"
    if library.exists():
        return library
    named = os.environ.get("CXX", "")
    compiler = next(filter(None, map(shutil.which, [named] if named else ["g++", "c++", "clang++"])), None)
    if compiler is None:
        raise MemdashError("no C++ compiler is installed")
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        output = Path(folder) / library.name
        _compile(compiler, output)
        os.replace(output, library)  # two runs may compile at once: whoever is last wins, and both are the same
    return library


def _compile(compiler: str, output: Path) -> None:
    home = Path(torch.__file__).parent
    cxx11_abi = int(torch.compiled_with_cxx11_abi())
    command = [compiler, "-O2", "-std=c++17", "-shared", "-fPIC", f"-D_GLIBCXX_USE_CXX11_ABI={cxx11_abi}"]
    command += [f"-I{home / 'include'}", str(SOURCE), f"-L{home / 'lib'}", "-lc10", "-o", str(output)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise MemdashError(f"{compiler} took more than {COMPILE_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[0]
        raise MemdashError(f"{compiler} cannot compile it: {last}")

"""The simulated device counts to the byte, refuses with torch's own error, and leaves host memory alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from memdash.config import DeviceSection
from memdash.errors import MemdashError, UsageError
from memdash.units import MIB
from runner import simulated as module
from runner.budget import PythonBudget
from runner.device import CpuDevice, open_device
from runner.simulated import NativeLimiter, SimulatedDevice

Native = Callable[[int], tuple[SimulatedDevice, NativeLimiter]]


def test_live_bytes_and_peaks_are_exact(native: Native) -> None:
    device, _ = native(64 * MIB)
    base = device.read_memory().allocated_bytes or 0
    first, second = torch.empty(1000), torch.empty(3, dtype=torch.float64)
    memory = device.read_memory()
    assert memory.allocated_bytes == memory.peak_allocated_bytes == base + 4000 + 24
    del first
    memory = device.read_memory()
    assert (memory.allocated_bytes, memory.peak_allocated_bytes) == (base + 24, base + 4024)
    assert device.read_memory().peak_allocated_bytes == base + 24  # reading restarts the peak
    view = second[1:]
    assert device.read_memory().allocated_bytes == base + 24
    del second, view
    assert device.read_memory().allocated_bytes == base


def test_the_figures_are_labelled(native: Native) -> None:
    memory = native(64 * MIB)[0].read_memory()
    assert (memory.kind, memory.device, memory.capacity_bytes) == ("simulated", "simulated", 64 * MIB)


def test_over_the_capacity_torch_raises_its_own_error(native: Native) -> None:
    device, _ = native(8 * MIB)
    held = torch.empty(4 * MIB, dtype=torch.uint8)
    with pytest.raises(
        torch.OutOfMemoryError, match=r"Tried to allocate 6.00 MiB \(6291456 bytes\).*capacity of 8.00 MiB"
    ):
        torch.empty(6 * MIB, dtype=torch.uint8)
    assert device.read_memory().num_ooms == 1
    del held
    torch.empty(6 * MIB, dtype=torch.uint8)


def test_the_capacity_can_be_filled_to_the_last_byte(native: Native) -> None:
    device, _ = native(8 * MIB)
    free = 8 * MIB - (device.read_memory().allocated_bytes or 0)
    whole = torch.empty(free, dtype=torch.uint8)
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(1, dtype=torch.uint8)
    del whole


def test_autograd_is_refused_in_mid_backward_and_leaks_nothing(native: Native) -> None:
    device, limiter = native(64 * MIB)
    with device.host():
        model = nn.Linear(512, 512)
        batch = {"x": torch.randn(64, 512)}
    device.place(model)
    base = device.read_memory().allocated_bytes
    assert base == 512 * 513 * 4
    for point in range(1, 12):
        limiter.fail_in(point)
        try:
            model(device.put(batch)["x"]).square().sum().backward()
        except torch.OutOfMemoryError:
            pass
        else:
            break
        model.zero_grad(set_to_none=True)
        assert device.read_memory().allocated_bytes == base
    assert point > 4
    limiter.fail_in(0)


def test_host_memory_is_not_counted_in_this_thread_only(native: Native) -> None:
    device, _ = native(8 * MIB)
    base = device.read_memory().allocated_bytes or 0
    made: list[torch.Tensor] = []
    with device.host():
        host = torch.empty(32 * MIB, dtype=torch.uint8)
        with device.host():
            pass
        thread = threading.Thread(target=lambda: made.append(torch.empty(1000, dtype=torch.uint8)))
        thread.start()
        thread.join(10)
        assert device.read_memory().allocated_bytes == base + 1000
    del host  # freed outside the scope that it was made in
    assert device.read_memory().allocated_bytes == base + 1000
    made.clear()
    assert device.read_memory().allocated_bytes == base


def test_reserved_follows_a_caching_allocator(native: Native) -> None:
    device, _ = native(64 * MIB)
    small, large = torch.empty(1000), torch.empty(12 * MIB + 1, dtype=torch.uint8)
    memory = device.read_memory()
    assert memory.reserved_bytes == 2 * MIB + 14 * MIB  # a segment of 2 MiB; 12 MiB and a byte, in twos
    del large
    memory = device.read_memory()
    assert (memory.reserved_bytes, memory.peak_reserved_bytes) == (16 * MIB, 16 * MIB)
    assert (memory.allocated_bytes or 0) < 1 * MIB
    assert device.empty_cache() == 14 * MIB
    assert device.read_memory().reserved_bytes == 2 * MIB
    del small


def test_reserved_lies_between_allocated_and_capacity(native: Native) -> None:
    device, _ = native(9 * MIB)
    torch.empty(8 * MIB, dtype=torch.uint8)  # freed at once, but kept in reserve
    held = [torch.empty(size * 100_000, dtype=torch.uint8) for size in (1, 15, 30, 40)]
    memory = device.read_memory()
    assert (memory.allocated_bytes or 0) <= (memory.reserved_bytes or 0) <= 9 * MIB
    assert memory.num_alloc_retries > 0
    del held


def test_tensors_outlive_the_simulation(native: Native) -> None:
    device, _ = native(8 * MIB)
    tensor = torch.arange(1000)
    device.stop()
    after = torch.arange(1000)
    assert torch.equal(tensor, after)
    del tensor


def test_placing_a_model_counts_it_once_and_keeps_ties(native: Native) -> None:
    device, _ = native(8 * MIB)
    with device.host():
        embed, head = nn.Embedding(100, 8), nn.Linear(8, 100, bias=False)
        head.weight = embed.weight
        model = nn.Sequential(embed, head, nn.BatchNorm1d(100))
    base = device.read_memory().allocated_bytes or 0
    device.place(model)
    assert model[1].weight is model[0].weight
    assert device.read_memory().allocated_bytes == base + 100 * 8 * 4 + 4 * 100 * 4 + 8


@pytest.fixture
def budget() -> Iterator[PythonBudget]:
    limiter = PythonBudget()
    limiter.start(8 * MIB)
    yield limiter
    limiter.stop()


def test_the_python_budget_refuses_as_well(budget: PythonBudget) -> None:
    held = torch.empty(4 * MIB, dtype=torch.uint8)
    assert budget.read().allocated == 4 * MIB
    with pytest.raises(torch.OutOfMemoryError, match="Simulated device out of memory"):
        torch.empty(6 * MIB, dtype=torch.uint8)
    with budget.host():
        torch.empty(32 * MIB, dtype=torch.uint8)
    del held
    assert budget.read().peak_allocated == 4 * MIB
    assert budget.read().allocated == 0
    model = nn.Linear(64, 64)
    model(torch.randn(8, 64)).sum().backward()
    del model
    assert budget.read().allocated == 0


def test_without_a_compiler_the_budget_is_used_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    device = SimulatedDevice(8 * MIB)
    try:
        assert "no C++ compiler" in device.start()
        assert isinstance(device.limiter, PythonBudget)
    finally:
        device.stop()


def test_a_compiler_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    broken = tmp_path / "broken.cpp"
    broken.write_text("#error that is not C++\n")
    monkeypatch.setattr(module, "SOURCE", broken)
    with pytest.raises(MemdashError, match="that is not C"):
        module.compile_allocator()
    assert list((tmp_path / "memdash").iterdir()) == []


def test_the_config_chooses_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cpu = open_device(DeviceSection(kind="auto"))
    assert isinstance(cpu, CpuDevice)
    memory = cpu.read_memory()
    assert memory.kind == "unavailable"
    assert "only host memory" in memory.reason
    assert isinstance(open_device(DeviceSection(kind="simulated", capacity="1MiB")), SimulatedDevice)
    with pytest.raises(UsageError, match="no CUDA device"):
        open_device(DeviceSection(kind="cuda"))

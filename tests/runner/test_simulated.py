"""The simulated device counts to the byte, refuses with torch's own error, and leaves host memory alone."""

from __future__ import annotations

import random
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


SHARED = 20 * MIB  # the segment of a device of 1 GiB that tensors of 1 to 10 MiB share


@pytest.mark.parametrize(
    ("sizes", "reserved"),
    [
        ([MIB + 1], SHARED),
        ([9 * MIB, 9 * MIB, 2 * MIB], SHARED),
        ([9 * MIB, 10 * MIB], SHARED),  # the 11 MiB that are left serve a tensor that else had its own segment
        ([9 * MIB, 9 * MIB, 3 * MIB], 2 * SHARED),
        ([10 * MIB], 10 * MIB),
        ([11 * MIB], 12 * MIB),
        ([30 * MIB + 1], 32 * MIB),
        ([10 * MIB, MIB + 1], 10 * MIB + SHARED),
    ],
)
def test_segments_are_those_of_the_cuda_allocator(native: Native, sizes: list[int], reserved: int) -> None:
    device, _ = native(1 << 30)
    device.empty_cache()
    base = device.read_memory().reserved_bytes or 0
    tensors = [torch.empty(size, dtype=torch.uint8) for size in sizes]
    assert (device.read_memory().reserved_bytes or 0) - base == reserved
    tensors.clear()
    assert device.empty_cache() == reserved


def test_small_tensors_share_segments_of_2_mib(native: Native) -> None:
    device, _ = native(1 << 30)
    base = device.read_memory().reserved_bytes
    held = [torch.empty(MIB, dtype=torch.uint8)]
    while device.read_memory().reserved_bytes == base:  # what earlier tests have left
        held.append(torch.empty(MIB, dtype=torch.uint8))
    full = (base or 0) + 2 * MIB
    held.append(torch.empty(MIB - 512, dtype=torch.uint8))
    held.append(torch.empty(1, dtype=torch.uint8))  # takes a block of 512 bytes, the last
    assert device.read_memory().reserved_bytes == full
    held.append(torch.empty(MIB, dtype=torch.uint8))
    assert device.read_memory().reserved_bytes == full + 2 * MIB


def test_what_is_freed_serves_whatever_fits_best_and_gaps_are_fragments(native: Native) -> None:
    device, _ = native(1 << 30)
    device.empty_cache()
    before = device.read_memory()

    def grown() -> tuple[int, int]:
        memory = device.read_memory()
        reserved = (memory.reserved_bytes or 0) - (before.reserved_bytes or 0)
        return reserved // MIB, ((memory.inactive_split_bytes or 0) - (before.inactive_split_bytes or 0)) // MIB

    large = torch.empty(30 * MIB, dtype=torch.uint8)
    del large
    first, second, third, fourth = (torch.empty(5 * MIB, dtype=torch.uint8) for _ in range(4))
    assert grown() == (30, 10)  # all four in what the large one has left
    del first, third
    assert grown() == (30, 20)
    six = torch.empty(6 * MIB, dtype=torch.uint8)  # into the 10 MiB at the end, for no gap of 5 takes it
    assert grown() == (30, 14)
    eleven = torch.empty(11 * MIB, dtype=torch.uint8)
    assert grown() == (42, 15)  # 12 for 11, and no rest that is worth a block
    del second, six, eleven
    gone = torch.empty(15 * MIB, dtype=torch.uint8)  # the gaps of the first three have become one
    assert grown() == (42, 10)
    assert device.empty_cache() == 12 * MIB
    del fourth, gone
    assert device.empty_cache() == 30 * MIB
    assert grown() == (0, 0)


def test_a_rest_of_a_mib_or_less_stays_with_its_tensor(native: Native) -> None:
    device, _ = native(1 << 30)
    device.empty_cache()
    base = device.read_memory().reserved_bytes or 0
    first, second = (torch.empty(size * MIB // 2, dtype=torch.uint8) for size in (19, 16))
    del first
    held = torch.empty(9 * MIB, dtype=torch.uint8)  # in the 9.5 MiB of the first
    del second  # 10.5 MiB are free behind it
    large = torch.empty(10 * MIB + 3 * MIB // 4, dtype=torch.uint8)
    assert (device.read_memory().reserved_bytes or 0) - base == SHARED + 12 * MIB
    del held, large


@pytest.mark.parametrize("seed", range(3))
def test_whatever_comes_and_goes_the_books_add_up(native: Native, seed: int) -> None:
    device, _ = native(256 * MIB)
    chance = random.Random(seed)
    device.empty_cache()
    before = device.read_memory()
    held: list[torch.Tensor] = []
    for _ in range(2000):
        if held and chance.random() < 0.5:
            held.pop(chance.randrange(len(held)))
        elif sum(map(torch.Tensor.numel, held)) < 128 * MIB:
            held.append(torch.empty(int(2 ** chance.uniform(0, 24)), dtype=torch.uint8))
        memory = device.read_memory()
        allocated, reserved = memory.allocated_bytes or 0, memory.reserved_bytes or 0
        assert allocated - (before.allocated_bytes or 0) == sum(map(torch.Tensor.numel, held))
        assert 0 <= allocated + (memory.inactive_split_bytes or 0) <= reserved <= 256 * MIB
    held.clear()
    device.empty_cache()
    after = device.read_memory()
    assert (after.reserved_bytes, after.inactive_split_bytes) == (before.reserved_bytes, before.inactive_split_bytes)


def test_a_full_device_gives_its_cache_up_before_it_refuses(native: Native) -> None:
    device, _ = native(64 * MIB)
    device.empty_cache()
    torch.empty(40 * MIB, dtype=torch.uint8)
    memory = device.read_memory()
    assert (memory.num_alloc_retries, (memory.reserved_bytes or 0) >= 40 * MIB) == (0, True)
    held = torch.empty(50 * MIB, dtype=torch.uint8)
    memory = device.read_memory()
    assert (memory.num_alloc_retries, memory.num_ooms) == (1, 0)
    assert (memory.reserved_bytes or 0) < 64 * MIB
    del held


def test_the_figures_of_a_refusal_are_kept(native: Native) -> None:
    device, _ = native(8 * MIB)
    base = device.read_memory().allocated_bytes or 0
    assert device.at_oom() is None
    held = torch.empty(4 * MIB, dtype=torch.uint8)
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(6 * MIB, dtype=torch.uint8)
    del held  # as the frames that failed do
    at_oom = device.at_oom()
    assert at_oom is not None
    assert (at_oom.requested_bytes, at_oom.memory.allocated_bytes) == (6 * MIB, base + 4 * MIB)
    assert (at_oom.memory.kind, at_oom.memory.capacity_bytes, at_oom.memory.num_ooms) == ("simulated", 8 * MIB, 1)
    assert device.at_oom() is None  # once
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(9 * MIB, dtype=torch.uint8)
    device.read_memory()  # a step lies between: whatever fails next, it was not this
    assert device.at_oom() is None


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
    assert budget.take_refusal() is None
    with pytest.raises(torch.OutOfMemoryError, match="Simulated device out of memory"):
        torch.empty(6 * MIB, dtype=torch.uint8)
    refusal = budget.take_refusal()
    assert refusal is not None
    assert (refusal[0], refusal[1].allocated, refusal[1].num_ooms) == (6 * MIB, 4 * MIB, 1)
    assert budget.take_refusal() is None
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

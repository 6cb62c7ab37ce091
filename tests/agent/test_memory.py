"""The figures of torch's allocators: of the nested statistics, at the moment of an OOM, of several devices."""

from __future__ import annotations

import types

import pytest
import torch

from memdash import wire
from memdash.agent.memory import AtOom, CudaOoms, from_nested_stats, joins_fragments, mps_memory, no_device, tightest

GIB = 1 << 30
STATS = {
    "allocated_bytes": {"all": {"current": 3 * GIB, "peak": 5 * GIB, "allocated": 1, "freed": 1}, "small_pool": {}},
    "reserved_bytes": {"all": {"current": 6 * GIB, "peak": 6 * GIB}},
    "active_bytes": {"all": {"current": 4 * GIB, "peak": 5 * GIB}},
    "inactive_split_bytes": {"all": {"current": GIB, "peak": GIB}},
    "num_alloc_retries": 2,
    "num_ooms": 1,
}


def test_every_figure_is_taken_by_its_own_name():
    memory = from_nested_stats(STATS, "cuda:0", free_bytes=8 * GIB, total_bytes=24 * GIB, cap_bytes=15 * GIB)
    assert (memory.allocated_bytes, memory.peak_allocated_bytes) == (3 * GIB, 5 * GIB)
    assert (memory.reserved_bytes, memory.peak_reserved_bytes) == (6 * GIB, 6 * GIB)
    assert (memory.active_bytes, memory.inactive_split_bytes) == (4 * GIB, GIB)
    assert (memory.num_alloc_retries, memory.num_ooms) == (2, 1)
    assert (memory.free_bytes, memory.total_bytes) == (8 * GIB, 24 * GIB)
    assert (memory.device, memory.kind) == ("cuda:0", "exact")


def test_capacity_is_the_lowest_ceiling():
    shared = from_nested_stats(STATS, "cuda:0", free_bytes=2 * GIB, total_bytes=24 * GIB, cap_bytes=15 * GIB)
    assert shared.capacity_bytes == 8 * GIB  # other processes hold the rest
    capped = from_nested_stats(STATS, "cuda:0", free_bytes=20 * GIB, total_bytes=24 * GIB, cap_bytes=15 * GIB)
    assert capped.capacity_bytes == 15 * GIB


def test_no_device_says_why():
    assert no_device("no CUDA here")().reason == "no CUDA here"
    assert no_device("x")().kind == "unavailable"


class Cuda:
    """Stands in for torch's allocator: statistics that change, and the hook that it calls when it refuses."""

    def __init__(self, monkeypatch) -> None:
        self.stats = STATS
        self.observers = []
        monkeypatch.setattr(torch._C, "_cuda_attach_out_of_memory_observer", self.observers.append, raising=False)
        monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", lambda index: self.stats)
        properties = types.SimpleNamespace(total_memory=24 * GIB)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda index: 0.5, raising=False)

    def refuse(self, index: int, requested_bytes: int) -> None:
        for observer in self.observers:
            observer(index, requested_bytes, 12 * GIB, GIB)


def test_an_oom_is_noted_at_its_very_moment(monkeypatch):
    cuda, ooms = Cuda(monkeypatch), CudaOoms(1)
    assert ooms.attach()
    assert ooms.take() is None
    cuda.refuse(0, 5 * GIB)  # another device's
    assert ooms.take() is None
    cuda.refuse(1, 5 * GIB)
    cuda.stats = {}  # the failed frames are gone by the time that the error is caught
    expected = from_nested_stats(STATS, "cuda:1", free_bytes=GIB, total_bytes=24 * GIB, cap_bytes=12 * GIB)
    assert ooms.take() == AtOom(5 * GIB, expected)
    assert expected.allocated_bytes == 3 * GIB
    assert ooms.take() is None


def test_an_observer_never_hides_the_error_that_it_observes(monkeypatch):
    cuda, ooms = Cuda(monkeypatch), CudaOoms()
    ooms.attach()
    cuda.stats = None  # as unreadable as can be
    cuda.refuse(0, GIB)
    assert ooms.take() is None


def test_a_torch_without_the_hook_is_told_apart(monkeypatch):
    monkeypatch.delattr(torch._C, "_cuda_attach_out_of_memory_observer", raising=False)
    assert not CudaOoms().attach()

    def unsupported(observer):
        raise RuntimeError("cudaMallocAsync does not yet support attachOutOfMemoryObserver")

    monkeypatch.setattr(torch._C, "_cuda_attach_out_of_memory_observer", unsupported, raising=False)
    assert not CudaOoms().attach()


def test_apples_gpus_have_figures_and_no_peaks(monkeypatch):
    figures = {"recommended_max_memory": 16, "current_allocated_memory": 5, "driver_allocated_memory": 7}
    for name, gib in figures.items():
        monkeypatch.setattr(torch.mps, name, lambda gib=gib: gib * GIB)
    memory = mps_memory()()
    assert (memory.device, memory.kind) == ("mps", "exact")
    assert (memory.capacity_bytes, memory.allocated_bytes, memory.reserved_bytes) == (16 * GIB, 5 * GIB, 7 * GIB)
    assert memory.peak_allocated_bytes is None
    assert wire.device_headroom_bytes(memory) == 11 * GIB


def test_of_several_devices_the_tightest_is_shown():
    def device(name: str, allocated: int, peak: int, capacity: int) -> wire.DeviceMemory:
        return wire.DeviceMemory(
            device=name,
            kind="exact",
            capacity_bytes=capacity,
            allocated_bytes=allocated,
            peak_allocated_bytes=peak,
        )

    small, large = device("cuda:0", 1, 6, 10), device("cuda:1", 5, 50, 100)
    assert tightest(lambda: small, lambda: large)() is small
    full = device("cuda:1", 5, 70, 100)
    assert tightest(lambda: small, lambda: full)() is full
    assert tightest(no_device("none"), lambda: large)() is large


@pytest.mark.parametrize(
    ("settings", "joins"),
    [
        ("", False),
        ("max_split_size_mb:64", False),
        ("expandable_segments:False", False),
        ("expandable_segments:True", True),
        ("max_split_size_mb:64, expandable_segments:True", True),
    ],
)
def test_what_the_allocator_was_told_of_expandable_segments(settings, joins, monkeypatch):
    monkeypatch.setattr(torch._C, "_accelerator_getAllocatorSettings", lambda: settings, raising=False)
    assert joins_fragments() is joins


def test_an_older_torch_reads_the_environment(monkeypatch):
    monkeypatch.delattr(torch._C, "_accelerator_getAllocatorSettings", raising=False)
    assert not joins_fragments()
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    assert joins_fragments()
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:64")  # the newer name holds where both are set
    assert not joins_fragments()

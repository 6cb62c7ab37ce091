"""The figures of torch's CUDA allocator, from the nested form of its statistics."""

from __future__ import annotations

from memdash.agent.memory import from_nested_stats, no_device

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

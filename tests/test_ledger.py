"""Every byte in one row, and the rows add up."""

from __future__ import annotations

import pytest

from memdash.ledger import device_ledger, host_ledger
from memdash.wire import DeviceMemory, GpuProcess, GpuReading, HostMemory

GIB = 1 << 30


def cuda(**changes: object) -> DeviceMemory:
    fields: dict[str, object] = {
        "device": "cuda:0",
        "kind": "exact",
        "capacity_bytes": 14 * GIB,
        "total_bytes": 16 * GIB,
        "free_bytes": 5 * GIB,
        "allocated_bytes": 4 * GIB,
        "active_bytes": 4 * GIB + GIB // 2,
        "inactive_split_bytes": GIB,
        "reserved_bytes": 8 * GIB,
        "peak_allocated_bytes": 6 * GIB,
    }
    return DeviceMemory(**{**fields, **changes})  # type: ignore[arg-type]


def gpu(**changes: object) -> GpuReading:
    fields: dict[str, object] = {
        "index": 0,
        "kind": "exact",
        "total_bytes": 16 * GIB,
        "own_bytes": 9 * GIB,
        "others_bytes": GIB,
        "reserved_bytes": GIB // 2,
        "processes": [
            GpuProcess(pid=7, name="python", used_bytes=9 * GIB, ours=True),
            GpuProcess(pid=8, name="Xorg", used_bytes=GIB, ours=False),
        ],
    }
    return GpuReading(**{**fields, **changes})  # type: ignore[arg-type]


def host(**changes: object) -> HostMemory:
    fields: dict[str, object] = {
        "kind": "exact",
        "process_bytes": 3 * GIB,
        "num_processes": 4,
        "working_set_bytes": 5 * GIB,
        "peak_working_set_bytes": 5 * GIB,
        "reclaimable_bytes": 2 * GIB,
        "capacity_bytes": 8 * GIB,
        "capacity_source": "/sys/fs/cgroup/a/memory.max",
    }
    return HostMemory(**{**fields, **changes})  # type: ignore[arg-type]


LEDGERS = {
    "cuda with the driver's list": (
        device_ledger(cuda(), gpu()),
        {
            "tensors": 4 * GIB,
            "awaiting a stream": GIB // 2,
            "fragments": GIB,
            "cached": 8 * GIB - 5 * GIB - GIB // 2,
            "rest of this run": GIB,
            "other processes": GIB,
            "driver": GIB // 2,
            "free": 5 * GIB,
            "unexplained": GIB // 2,
        },
    ),
    "cuda alone": (
        device_ledger(cuda(active_bytes=4 * GIB, inactive_split_bytes=0)),
        {"tensors": 4 * GIB, "cached": 4 * GIB, "outside torch": 3 * GIB, "free": 5 * GIB},
    ),
    "a driver that does not tell processes apart": (
        device_ledger(cuda(), gpu(own_bytes=None, others_bytes=None, reason="host pids")),
        {
            "tensors": 4 * GIB,
            "awaiting a stream": GIB // 2,
            "fragments": GIB,
            "cached": 8 * GIB - 5 * GIB - GIB // 2,
            "outside torch": 3 * GIB,
            "free": 5 * GIB,
        },
    ),
    "the driver does not know what others use": (
        device_ledger(cuda(active_bytes=4 * GIB, inactive_split_bytes=0), gpu(others_bytes=None)),
        {
            "tensors": 4 * GIB,
            "cached": 4 * GIB,
            "rest of this run": GIB,
            "other processes": None,
            "driver": GIB // 2,
            "free": 5 * GIB,
            "unexplained": GIB + GIB // 2,
        },
    ),
    "simulated": (
        device_ledger(
            cuda(
                device="simulated",
                kind="simulated",
                total_bytes=16 * GIB,
                free_bytes=8 * GIB,
                active_bytes=4 * GIB,
                inactive_split_bytes=None,
            )
        ),
        {"tensors": 4 * GIB, "cached": 4 * GIB, "free": 8 * GIB},
    ),
    "a recording": (
        device_ledger(cuda(total_bytes=None, free_bytes=None, active_bytes=None, inactive_split_bytes=None)),
        {"tensors": 4 * GIB, "cached": 4 * GIB, "free": 6 * GIB},
    ),
    "a container": (
        host_ledger(host()),
        {"this run": 3 * GIB, "all else": 2 * GIB, "page cache": 2 * GIB, "free": GIB},
    ),
    "file pages that are counted as page cache, too": (
        host_ledger(host(process_bytes=6 * GIB)),
        {"this run": 6 * GIB, "all else": 0, "page cache": 2 * GIB, "free": GIB, "unexplained": -GIB},
    ),
    "a budget": (
        host_ledger(
            host(capacity_source="memory.host_budget", working_set_bytes=3 * GIB, reclaimable_bytes=0),
        ),
        {"this run": 3 * GIB, "free": 5 * GIB},
    ),
    "an rlimit": (
        host_ledger(host(capacity_source="RLIMIT_AS", reclaimable_bytes=0)),
        {"address space": 5 * GIB, "free": 3 * GIB},
    ),
}


@pytest.mark.parametrize(("ledger", "sizes"), LEDGERS.values(), ids=LEDGERS.keys())
def test_rows_add_up(ledger, sizes):
    assert {row.name: row.size_bytes for row in ledger.rows} == sizes
    assert sum(row.size_bytes or 0 for row in ledger.rows) == ledger.total_bytes
    assert all(row.source and row.kind for row in ledger.rows)


def test_words_say_what_can_be_done():
    notes = {row.name: row.note for row in device_ledger(cuda(), gpu()).rows}
    assert notes["cached"] == "2.50 GiB is reserved by torch but unused: `e` gives it back to the device."
    assert notes["other processes"] == "Xorg 8 1.00 GiB"
    assert "6.00 GiB" in notes["tensors"]
    assert "512 MiB of them" in host_ledger(host(swap_bytes=GIB // 2)).rows[0].note


def test_simulated_rows_say_so():
    ledger = device_ledger(cuda(kind="simulated"))
    assert {row.kind for row in ledger.rows} <= {"simulated", "estimated"}
    assert ledger.source == "device.capacity"


def test_host_rows_name_psutil_where_there_is_no_proc():
    row = host_ledger(host(kind="estimated")).rows[0]
    assert (row.kind, row.source) == ("estimated", "psutil")
    assert "counted in each of them" in row.note
    assert host_ledger(host()).rows[0].source == "/proc/PID/statm"


def test_nothing_is_known():
    assert device_ledger(DeviceMemory(device="cpu", kind="unavailable", reason="no device")) is None
    assert device_ledger(None) is None
    assert host_ledger(None) is None


def test_a_share_is_of_the_total():
    ledger = host_ledger(host())
    assert ledger.share(ledger.rows[0]) == 3 / 8

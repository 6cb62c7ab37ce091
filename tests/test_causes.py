"""Each cause is named from the readings that it leaves, once, and not from readings that only look like it."""

from __future__ import annotations

import msgspec
import pytest

from memdash.causes import QUIET_S, Causes
from memdash.wire import DeviceMemory, GpuProcess, GpuReading, GpuSample, HostMemory, HostSample, StepReport

GIB = 1 << 30
HOST = HostMemory(
    kind="exact",
    process_bytes=4 * GIB,
    main_process_bytes=4 * GIB,
    peak_process_bytes=4 * GIB,
    num_processes=1,
    working_set_bytes=5 * GIB,
    peak_working_set_bytes=5 * GIB,
    capacity_bytes=16 * GIB,
    capacity_source="memory.max",
    num_throttled=3,
    stalled_full=0.0,
    shm_bytes=0,
    shm_capacity_bytes=GIB,
)
CUDA = DeviceMemory(
    device="cuda:0",
    kind="exact",
    capacity_bytes=16 * GIB,
    total_bytes=16 * GIB,
    free_bytes=8 * GIB,
    allocated_bytes=4 * GIB,
    reserved_bytes=7 * GIB,
    peak_allocated_bytes=6 * GIB,
    peak_reserved_bytes=7 * GIB,
)


def change(before: HostMemory | DeviceMemory, **changes: object) -> HostMemory | DeviceMemory:
    return msgspec.structs.replace(before, **changes)


def step(number: int, memory: DeviceMemory, time_s: float | None = None) -> StepReport:
    return StepReport(
        rank=0,
        seq=number,
        time_s=float(number) if time_s is None else time_s,
        step=number,
        epoch=0,
        examples_seen=0,
        micro_batch=1,
        grad_accum_steps=1,
        step_time_s=1.0,
        loss=None,
        memory=memory,
    )


DEVICE = {
    "fragmentation": (
        {"peak_reserved_bytes": 9 * GIB, "num_alloc_retries": 2},
        "fragmentation: at the peak torch holds 3.00 GiB that no tensor fits into, and it had to flush its cache in 2 of",
    ),
    "a large step": ({"peak_reserved_bytes": 9 * GIB, "num_alloc_retries": 1}, ""),
    "a cache that was never flushed": ({"peak_reserved_bytes": 15 * GIB}, ""),
    "flushed, but nothing wasted": ({"num_alloc_retries": 1}, ""),
    "a step that was too large": ({"peak_reserved_bytes": 9 * GIB, "num_alloc_retries": 2, "num_ooms": 1}, ""),
    "a neighbour": ({"free_bytes": 6 * GIB}, "cuda:0: others than torch took 2.00 GiB of the device within 10s"),
    "torch itself": ({"free_bytes": 6 * GIB, "reserved_bytes": 9 * GIB}, ""),
    "a simulated device has no neighbours": ({"kind": "simulated", "free_bytes": 2 * GIB}, ""),
}


@pytest.mark.parametrize(("changes", "text"), DEVICE.values(), ids=DEVICE.keys())
def test_the_device(changes, text):
    causes = Causes()
    assert [causes.step(step(number, CUDA)) for number in range(1, 9)] == [[]] * 8
    flushed = changes.get("num_alloc_retries", 0) // 2  # a step that had to flush, but wastes nothing
    assert causes.step(step(9, change(CUDA, num_alloc_retries=flushed))) == []
    found = causes.step(step(11, change(CUDA, **changes)))
    assert [cause.text[: len(text)] for cause in found] == ([text] if text else [])


HOSTS = {
    "page cache only": (
        {"reclaimable_bytes": 10 * GIB},
        "host memory looks 94% full, but 10.0 GiB of that is page cache",
    ),
    "full for real": ({"working_set_bytes": 15 * GIB, "peak_working_set_bytes": 15 * GIB}, ""),
    "workers": (
        {"num_processes": 9, "process_bytes": 7 * GIB},
        "the 8 child processes hold 3.00 GiB, 3.00 GiB more than 10s ago: fewer DataLoader workers",
    ),
    "the training process itself": ({"num_processes": 9, "process_bytes": 7 * GIB, "main_process_bytes": 7 * GIB}, ""),
    "throttled": (
        {"num_throttled": 4, "throttle_bytes": 14 * GIB},
        "over memory.high (14.0 GiB): the kernel slows the run down",
    ),
    "swapping": ({"swap_bytes": GIB}, "1.00 GiB of the run was swapped out within 10s"),
    "shared memory": ({"shm_bytes": GIB - GIB // 20}, "/dev/shm is 95% full of 1.00 GiB"),
    "one stall": ({"stalled_full": 0.9}, ""),
    "a spike that is no save": ({"peak_process_bytes": 6 * GIB}, ""),
}


@pytest.mark.parametrize(("changes", "text"), HOSTS.values(), ids=HOSTS.keys())
def test_the_host(changes, text):
    causes = Causes()
    for second in range(1, 10):
        assert causes.host(HostSample(time_s=second, host=HOST), "training") == []
    found = causes.host(HostSample(time_s=11, host=change(HOST, **changes)), "training")
    assert [cause.text[: len(text)] for cause in found] == ([text] if text else [])


def test_a_save_that_spikes():
    host = change(HOST, peak_process_bytes=6 * GIB)
    found = Causes().host(HostSample(time_s=1, host=host), "saving")
    assert [cause.text for cause in found] == [
        "saving the checkpoint took 2.00 GiB of host memory for a moment: keep that much headroom"
    ]


def test_lasting_pressure():
    causes = Causes()
    found = [causes.host(HostSample(time_s=n, host=change(HOST, stalled_full=0.25)), "training") for n in range(12)]
    assert [[cause.name for cause in each] for each in found] == [*[[]] * 9, ["stalled"], [], []]


def test_the_kernels_alarm():
    causes = Causes()
    counts = [2, 2, 3, 3, 4]
    found = [
        causes.host(HostSample(time_s=n, host=change(HOST, num_stall_alarms=count, stalled_some=0.3)), "training")
        for n, count in enumerate(counts)
    ]
    assert [[cause.text for cause in each] for each in found] == [
        [],
        [],
        ["memory pressure: processes begin to wait for memory: 30% of the last moments"],
        [],
        [],  # said a moment ago
    ]


def test_two_devices_of_one_process_are_no_neighbours():
    """At each step the tighter one is reported: what another one holds is not what this one's has grown to."""
    causes = Causes()
    other = change(CUDA, device="cuda:1", free_bytes=GIB, reserved_bytes=GIB)
    found = [causes.step(step(n, (CUDA, other)[n % 2])) for n in range(10)]
    assert found == [[]] * 10


def test_expandable_segments_are_not_advised_twice():
    texts = []
    for joins in (False, True):
        causes = Causes()
        for n in range(4):
            memory = change(CUDA, num_alloc_retries=n, peak_reserved_bytes=10 * GIB, joins_fragments=joins)
            texts += [cause.text for cause in causes.step(step(n, memory))]
    assert ["expandable_segments" in text for text in texts] == [True, False]


def test_another_process_on_the_gpu():
    def sample(time_s: float, others: int) -> GpuSample:
        stranger = GpuProcess(pid=8, name="jupyter", used_bytes=others, ours=False)
        return GpuSample(
            time_s=time_s,
            gpus=[
                GpuReading(index=1, kind="exact", total_bytes=16 * GIB, others_bytes=others, processes=[stranger]),
                GpuReading(index=2, kind="unavailable"),
            ],
        )

    causes = Causes()
    assert causes.gpus(sample(1, GIB)) == []
    assert [cause.text for cause in causes.gpus(sample(60, 3 * GIB))] == [
        "other processes took 2.00 GiB of GPU 1 in the last minutes; the largest is jupyter 8, 3.00 GiB"
    ]


def test_it_is_said_once_while_it_lasts_and_again_much_later():
    causes, swapped = Causes(), change(HOST, shm_bytes=GIB)
    said = [causes.host(HostSample(time_s=n, host=swapped), "training") for n in range(0, 2000, 100)]
    assert [len(each) for each in said] == [1] + [0] * 19
    causes.host(HostSample(time_s=2000, host=HOST), "training")
    late = 1900 + QUIET_S
    assert causes.host(HostSample(time_s=late, host=swapped), "training") == []
    assert len(causes.host(HostSample(time_s=late + QUIET_S + 1, host=swapped), "training")) == 1


def test_old_readings_are_forgotten():
    causes = Causes()
    causes.step(step(1, CUDA, 0.0))
    assert causes.step(step(2, change(CUDA, free_bytes=6 * GIB), 500.0)) == []
    for number in range(3, 2000):
        causes.step(step(number, CUDA, 500.0 + number / 1000))
    assert len(causes._steps[0, "cuda:0"]) <= 512

"""What real drivers do, and what they should not: played by a stand-in, read in a real process through pynvml."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from memdash.host.gpu_figures import MAX_PROCESSES

GIB, MIB = 1 << 30, 1 << 20
TOTAL = 40 * GIB
ERRORS = {
    4: "this user may not use the NVIDIA driver: see the rights of /dev/nvidia*",
    9: "the NVIDIA driver is installed but not loaded",
    17: "the NVIDIA driver cannot be asked: The operating system has blocked the request.",
    18: "the NVIDIA driver and its library are of different versions, as after an update: reboot",
    42: "the NVIDIA driver cannot be asked: an error of the stand-in",
    999: "the NVIDIA driver cannot be asked: Unknown Error",
}


def numbers(gpu):
    """Every figure of a reading."""
    return [
        gpu.total_bytes, gpu.used_bytes, gpu.free_bytes, gpu.reserved_bytes, gpu.own_bytes, gpu.others_bytes,
        gpu.utilization_percent, gpu.temperature_c, gpu.power_w,
    ]  # fmt: skip


def test_structures_are_those_of_pynvml(drivers):
    import pynvml

    told = (ctypes.c_uint32 * 12).in_dll(ctypes.CDLL(str(drivers["new"] / "libnvidia-ml.so.1")), "standin_layout")
    memory, memory_2, process = pynvml.c_nvmlMemory_t, pynvml.c_nvmlMemory_v2_t, pynvml.c_nvmlProcessInfo_v3_t
    rates, heat = pynvml.c_nvmlUtilization_t, pynvml.c_nvmlTemperature_v1_t
    assert list(told) == [
        ctypes.sizeof(memory), memory.free.offset, memory.used.offset,
        ctypes.sizeof(memory_2), memory_2.reserved.offset, memory_2.used.offset,
        ctypes.sizeof(process), process.usedGpuMemory.offset, process.gpuInstanceId.offset,
        ctypes.sizeof(rates), ctypes.sizeof(heat), heat.temperature.offset,
    ]  # fmt: skip


def test_two_gpus_and_whose_memory_it_is(reader):
    mine, other = os.getpid(), 1
    scenario = f"gpus=2 procs=0/{mine}/{3 * GIB},0/{other}/{2 * GIB},1/{other}/{GIB}"
    reason, (first, second) = reader("new").ask(scenario, tree=(mine,))
    assert reason == ""
    assert numbers(first) == [TOTAL, 5 * GIB, 35 * GIB - 512 * MIB, 512 * MIB, 3 * GIB, 2 * GIB, 83, 61, 312.5]
    assert numbers(second)[4:] == [0, GIB, 83, 62, 312.5]
    assert [(gpu.index, gpu.cuda_index, gpu.kind, gpu.name, gpu.reason) for gpu in (first, second)] == [
        (0, 0, "exact", "Stand-in A100", ""),
        (1, 1, "exact", "Stand-in A100", ""),
    ]
    assert first.uuid.startswith("GPU-0")
    assert [(process.pid, process.used_bytes, process.ours) for process in first.processes] == [
        (mine, 3 * GIB, True),
        (other, 2 * GIB, False),
    ]
    assert first.processes[0].name == Path(f"/proc/{mine}/comm").read_text().strip()


def test_two_ranks_and_a_process_that_has_vanished(reader):
    gone = 4_000_000  # above any pid
    _, (first, second) = reader("new").ask(f"gpus=2 procs=0/7/{GIB},1/8/{2 * GIB},1/{gone}/{MIB}", tree=(6, 7, 8))
    assert (first.own_bytes, first.others_bytes) == (GIB, 0)
    assert (second.own_bytes, second.others_bytes) == (2 * GIB, MIB)
    assert [process.name for process in second.processes if process.pid == gone] == [""]


@pytest.mark.parametrize(("said", "known"), [(-1, None), (0, None), (1 << 51, None), (1, 1)])
def test_a_process_that_does_not_show_its_memory(reader, said, known):
    _, (gpu,) = reader("new").ask(f"procs=0/7/{said},0/8/{GIB}", tree=(7,))
    assert {process.pid: process.used_bytes for process in gpu.processes} == {7: known, 8: GIB}
    assert (gpu.own_bytes, gpu.others_bytes) == (known, GIB)
    assert gpu.reason.endswith("" if known else "processes: 1 of 2 do not show their memory")


def test_one_that_draws_too_is_listed_twice_and_counted_once(reader):
    _, (gpu,) = reader("new").ask(f"draws=1 procs=0/7/{GIB},0/8/-1", tree=(7, 8))
    assert (gpu.num_processes, gpu.own_bytes) == (2, None)
    _, (gpu,) = reader("new").ask(f"draws=1 procs=0/7/{GIB},0/8/{GIB}", tree=(7,))
    assert (gpu.num_processes, gpu.own_bytes, gpu.others_bytes) == (2, GIB, GIB)


def test_a_long_list_of_processes_is_cut_but_counted(reader):
    _, (gpu,) = reader("new").ask("many=500")
    assert (gpu.num_processes, len(gpu.processes)) == (500, MAX_PROCESSES)
    assert gpu.others_bytes == sum(range(1, 501)) * MIB
    assert gpu.processes[0].used_bytes == 500 * MIB  # the largest ones


def test_a_list_that_grows_while_it_is_read(reader):
    _, (gpu,) = reader("new").ask(f"grow=2 procs=0/7/{GIB}")
    assert gpu.others_bytes == GIB
    _, (gpu,) = reader("new").ask(f"grow=1000 procs=0/7/{GIB}")
    assert (gpu.others_bytes, gpu.num_processes, gpu.used_bytes) == (None, None, GIB)
    assert gpu.reason == "processes: the list grows faster than it can be read"
    reader("new").ask(f"grow=0 procs=0/7/{GIB}")


def test_mig(reader):
    _, gpus = reader("new").ask(f"gpus=2 mig=2 procs=0/7/{GIB}", tree=(7,), CUDA_VISIBLE_DEVICES="MIG-0")
    assert gpus == []  # the prefix fits both
    _, (gpu,) = reader("new").ask(
        f"gpus=2 mig=2 procs=0/7/{GIB}",
        tree=(7,),
        CUDA_VISIBLE_DEVICES="MIG-00000000-aaaa-bbbb-cccc-000000000000",
    )
    assert (gpu.index, gpu.instance, gpu.cuda_index, gpu.name) == (0, 0, 0, "Stand-in A100 MIG 3g.20gb")
    assert (gpu.total_bytes, gpu.used_bytes, gpu.own_bytes) == (TOTAL // 2, GIB, GIB)
    assert (gpu.utilization_percent, gpu.temperature_c, gpu.power_w) == (None, 61, 312.5)  # of the card
    assert gpu.reason == "utilisation: not supported by this GPU"


@pytest.mark.parametrize(
    ("environment", "indices", "why"),
    [
        ({}, [0, 1, 2], ""),
        ({"CUDA_VISIBLE_DEVICES": "2,0"}, [2, 0], ""),
        ({"CUDA_VISIBLE_DEVICES": "GPU-1"}, [1], ""),
        ({"CUDA_VISIBLE_DEVICES": ""}, [], "CUDA_VISIBLE_DEVICES is empty: this run sees no GPU"),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, [], "`NoDevFiles` in CUDA_VISIBLE_DEVICES is no GPU here"),
    ],
)
def test_only_what_the_run_may_use(reader, environment, indices, why):
    reason, gpus = reader("new").ask("gpus=3", **environment)
    assert [gpu.index for gpu in gpus] == indices
    assert [gpu.cuda_index for gpu in gpus] == list(range(len(indices)))
    assert reason.startswith(why)


def test_unlike_gpus_are_not_given_numbers_of_cuda(reader):
    _, gpus = reader("new").ask("gpus=2 unlike=1", CUDA_VISIBLE_DEVICES="0")
    assert [(gpu.index, gpu.cuda_index) for gpu in gpus] == [(0, None), (1, None)]
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in gpus[0].reason
    _, gpus = reader("new").ask("gpus=2 unlike=1", CUDA_VISIBLE_DEVICES="1", CUDA_DEVICE_ORDER="PCI_BUS_ID")
    assert [(gpu.index, gpu.cuda_index, gpu.reason) for gpu in gpus] == [(1, 0, "")]


def test_an_old_driver(reader):
    reason, (gpu,) = reader("old").ask(f"procs=0/7/{GIB}", tree=(7,))
    assert reason == ""
    # its memory counts what the driver keeps as used; its thermometer is another call
    assert numbers(gpu) == [TOTAL, GIB + 512 * MIB, 39 * GIB - 512 * MIB, None, None, None, 83, 50, 312.5]
    assert gpu.reason == "processes: this driver does not know the call"


def test_a_driver_with_the_process_list_before_last(reader):
    _, (gpu,) = reader("middle").ask(f"procs=0/7/{GIB}", tree=(7,))
    assert (gpu.own_bytes, gpu.reason) == (GIB, "")


def test_a_driver_too_old_to_be_asked(reader):
    assert reader("ancient").ask("") == ("the NVIDIA driver is too old to be asked", [])


def test_no_driver(reader):
    assert reader("absent").ask("") == ("no NVIDIA driver", [])


@pytest.mark.parametrize(("code", "reason"), ERRORS.items())
def test_a_driver_that_does_not_start(reader, code, reason):
    assert reader("new").ask(f"init={code}") == (reason, [])


def test_a_driver_that_cannot_count(reader):
    reason, gpus = reader("new").ask("count=999")
    assert (reason, gpus) == ("the NVIDIA driver does not say how many GPUs there are: Unknown Error", [])
    assert reader("new").ask("gpus=0") == ("the NVIDIA driver knows no GPU", [])


def test_figures_that_cannot_be(reader):
    _, (gpu,) = reader("new").ask("insane=1")
    assert numbers(gpu) == [TOTAL, None, None, 512 * MIB, 0, 0, None, None, None]
    for words in ("memory: the driver says ", "80.0 GiB free of 40.0 GiB", "utilisation: ", "temperature: ", "power: "):
        assert words in gpu.reason
    for total in ("0", "-1", str(1 << 60)):
        _, (gpu,) = reader("new").ask(f"total={total}")
        assert numbers(gpu)[:4] == [None] * 4
        assert gpu.kind == "unavailable"


def test_what_a_gpu_does_not_offer(reader):
    _, (gpu,) = reader("new").ask("unsupported=1")
    assert (gpu.utilization_percent, gpu.power_w, gpu.temperature_c, gpu.kind) == (None, None, 61, "exact")
    assert gpu.reason == "utilisation: not supported by this GPU; power: not supported by this GPU"


def test_a_name_that_is_no_text(reader):
    _, (gpu,) = reader("new").ask("garbage=1")
    assert (gpu.name, gpu.used_bytes) == ("", 0)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (15, "the driver has lost this GPU (GPU is lost)"),
        (16, "the driver has lost this GPU (GPU requires restart)"),
        (999, "Unknown Error"),
    ],
)
def test_a_gpu_that_has_fallen_off_the_bus(reader, code, why):
    _, (first, second) = reader("new").ask(f"gpus=2 lost=1 lost_code={code}")
    assert numbers(first)[:2] == [TOTAL, 0]
    assert (second.index, second.kind, numbers(second), second.reason) == (1, "unavailable", [None] * 9, why)

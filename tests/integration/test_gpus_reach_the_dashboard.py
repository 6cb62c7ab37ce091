"""A real supervisor on a driver of our own making: figures go up, and nothing that the driver does comes down on the run."""

from __future__ import annotations

import os
import time

import pytest

from memdash import wire
from memdash.commands import main
from memdash.errors import ExitCode
from memdash.store.recorder import recorded_gpus
from tests.conftest import wait_until
from tests.nvml_standin import play

GIB = 1 << 30


@pytest.fixture
def scenario(drivers, tmp_path, monkeypatch):
    """What the driver that every process of this test finds plays; `play` changes it."""
    path = tmp_path / "scenario"
    monkeypatch.setenv("LD_LIBRARY_PATH", str(drivers["new"]))
    monkeypatch.setenv("NVML_STANDIN", str(path))
    monkeypatch.setenv("NVML_STANDIN_LOG", str(path.with_suffix(".log")))
    play(path, "gpus=2")
    return path


async def test_a_run_sees_the_gpus_it_may_use_and_whose_memory_is_on_them(
    start_run, watch, scenario, monkeypatch, capsys
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    run = start_run("--device", "cuda:0")
    wait_until(lambda: run.directory.state(), "a state")
    # before the list of processes is read for the first time, which is when the training process is there
    play(scenario, f"gpus=2 procs=1/{run.directory.state().pid}/{3 * GIB},1/1/{2 * GIB}")
    watcher = await watch(run)
    sample = await watcher.until(lambda m: isinstance(m, wire.GpuSample) and m.gpus[0].own_bytes, "its own memory")
    (gpu,) = sample.gpus
    assert (gpu.index, gpu.cuda_index, gpu.own_bytes, gpu.others_bytes) == (1, 0, 3 * GIB, 2 * GIB)
    assert (gpu.used_bytes, gpu.utilization_percent, gpu.temperature_c) == (5 * GIB, 83, 62)
    state = await watcher.state(lambda state: state.gpus, "GPUs in the state")
    assert state.gpus[0].uuid == gpu.uuid
    run.order("e")
    assert run.wait_for_end().status == "finished"
    rows = list(recorded_gpus(run.directory))
    assert {(place, row["index"], row["instance"]) for place, row in rows} == {(0, 1, None)}
    assert [row["own_bytes"] for _, row in rows][-1] == 3 * GIB
    gaps = [after["time_s"] - before["time_s"] for (_, before), (_, after) in zip(rows, rows[1:], strict=False)]
    assert all(gap > 0.3 for gap in gaps)  # two a second
    assert main(["report"]) == ExitCode.OK
    line = "GPU 1: 83% busy on average, at most 62°C, at most 312 W, others held up to 2.00 GiB"
    assert line in capsys.readouterr().out.splitlines()


async def test_a_gpu_that_falls_off_the_bus_is_journaled_once(start_run, watch, scenario):
    run = start_run("--device", "cuda:0")
    watcher = await watch(run)
    await watcher.state(lambda state: [gpu.kind for gpu in state.gpus] == ["exact"] * 2, "two GPUs")
    play(scenario, "gpus=2 lost=1")
    lost = await watcher.state(lambda state: "unavailable" in [gpu.kind for gpu in state.gpus], "a lost GPU")
    assert [gpu.kind for gpu in lost.gpus] == ["exact", "unavailable"]
    assert lost.gpus[1].used_bytes is None
    for _ in range(3):
        await watcher.until(lambda m: isinstance(m, wire.GpuSample), "further samples")
    said = [line for line in run.journal() if line.startswith("gpu: ")]
    assert said == ["gpu: GPU 1: no figures any more: the driver has lost this GPU (GPU is lost)"]
    run.order("e")
    assert run.wait_for_end().status == "finished"


async def test_a_driver_that_hangs_stalls_neither_samples_nor_commands_nor_the_end(start_run, watch, scenario):
    run = start_run("--device", "cuda:0")
    watcher = await watch(run)
    await watcher.state(lambda state: state.gpus and state.linked, "GPUs")
    play(scenario, "gpus=2 hang_ms=600000")
    calls = scenario.with_suffix(".log")
    size = calls.stat().st_size
    wait_until(lambda: calls.stat().st_size > size, "a call that hangs")
    hosts: list[float] = []
    for _ in range(4):
        await watcher.until(lambda m: isinstance(m, wire.HostSample), "host samples")
        hosts.append(time.monotonic())
    assert max(after - before for before, after in zip(hosts, hosts[1:], strict=False)) < 1.5
    result = await watcher.client.request(wire.EmptyCache(command_id="e"), timeout_s=5)
    assert result.ok
    run.order("e")
    assert run.wait_for_end().status == "finished"
    pid = run.supervisor_pid()
    await watcher.client.close()
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the end of the supervisor")


async def test_a_run_on_a_simulated_device_leaves_the_gpus_alone(start_run, watch, scenario):
    run = start_run()
    watcher = await watch(run)
    await watcher.state(lambda state: state.device == "simulated" and not state.gpus, "no GPUs")
    await watcher.until(lambda m: isinstance(m, wire.HostSample), "a beat")
    calls = scenario.with_suffix(".log")
    before = calls.read_text() if calls.exists() else ""
    for _ in range(3):
        await watcher.until(lambda m: isinstance(m, wire.HostSample), "beats")
    assert (calls.read_text() if calls.exists() else "") == before

"""A row read back is the message that it was made of, as far as it was recorded."""

from __future__ import annotations

import math

import msgspec
import pytest

from memdash import wire
from memdash.replay.rows import host_sample, rank_sample, with_figures
from memdash.store.recorder import GPU_COLUMNS, Recorder, rank_row
from memdash.store.run_directory import RunDirectory
from memdash.store.samples import read_rows
from tests.tui import scenes

MEMORY = wire.DeviceMemory(
    device="cuda:1",
    kind="exact",
    capacity_bytes=1000,
    allocated_bytes=300,
    reserved_bytes=600,
    active_bytes=310,
    inactive_split_bytes=20,
    peak_allocated_bytes=500,
    peak_reserved_bytes=610,
    num_alloc_retries=2,
    num_ooms=1,
)
STEP = scenes.step(3.5, 7, MEMORY, learning_rate=1e-4, grad_norm=None, longest=88)
READING = wire.MemorySample(rank=0, seq=1, time_s=5.0, step=7, memory=MEMORY)
LIKE = wire.DeviceMemory(device="cuda:1", kind="exact", capacity_bytes=1, num_ooms=99, total_bytes=5)


@pytest.fixture
def recorder(tmp_path):
    (tmp_path / "samples").mkdir()
    recorder = Recorder(RunDirectory(tmp_path))
    yield recorder
    recorder.close()


@pytest.mark.parametrize(
    "message", [STEP, READING, msgspec.structs.replace(STEP, memory=None, loss=None)], ids=["step", "reading", "bare"]
)
def test_what_a_rank_said(message, recorder, tmp_path):
    recorder.rank(0, [rank_row(message, 0)])
    (row,) = read_rows(tmp_path / "samples" / "rank-0.rec")
    assert rank_sample(0, message.seq, row, LIKE if message.memory else None) == message


def test_a_row_that_says_nothing(recorder, tmp_path):
    recorder.rank(0, [rank_row(READING, 0)])
    (row,) = read_rows(tmp_path / "samples" / "rank-0.rec")
    assert rank_sample(0, 1, row, None) is None  # nobody knows what device that was


def test_host_memory(recorder, tmp_path):
    sample = scenes.host_sample(2.0, 3.0)
    recorder.host(sample, 0)
    (row,) = read_rows(tmp_path / "samples" / "host.rec")
    like = msgspec.structs.replace(sample.host, working_set_bytes=1, shm_bytes=77)
    assert host_sample(row, like) == sample  # of /dev/shm nothing was recorded: nothing is said


def test_a_gpu(recorder, tmp_path):
    gpu = wire.GpuReading(
        index=2,
        cuda_index=0,
        uuid="GPU-1",
        name="T4",
        kind="exact",
        total_bytes=16,
        used_bytes=9,
        free_bytes=7,
        own_bytes=4,
        others_bytes=5,
        utilization_percent=83,
        temperature_c=61,
        power_w=70.5,
    )
    assert set(GPU_COLUMNS[2:]) <= set(wire.GpuReading.__struct_fields__)
    recorder.gpus(wire.GpuSample(time_s=1.0, gpus=[gpu]), 0)
    (row,) = read_rows(tmp_path / "samples" / "gpu-0.rec")
    assert with_figures(msgspec.structs.replace(gpu, used_bytes=1, power_w=None), row) == gpu
    assert not any(value is not None and math.isnan(value) for value in row.values())

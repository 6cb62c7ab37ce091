"""What was recorded comes back by time, as it was reported, states in between."""

from __future__ import annotations

import msgspec

from memdash import wire
from memdash.store.moments import Moment
from memdash.store.recorder import Recorder, rank_row
from memdash.store.replay import of_device, recorded_run
from memdash.store.run_directory import RunDirectory

HOST = wire.HostMemory(
    kind="exact", process_bytes=1, num_processes=2, working_set_bytes=3, peak_working_set_bytes=4, capacity_bytes=5,
    capacity_source="memory.max",
)  # fmt: skip
MEMORY = wire.DeviceMemory(
    device="cuda:0", kind="exact", capacity_bytes=80, allocated_bytes=20, peak_allocated_bytes=60, num_ooms=1
)


def step(rank: int, number: int, time_s: float, memory: wire.DeviceMemory | None = MEMORY) -> wire.StepReport:
    return wire.StepReport(
        rank=rank, seq=0, time_s=time_s, step=number, epoch=1, examples_seen=16, micro_batch=4, grad_accum_steps=2,
        step_time_s=0.5, loss=1.5, longest=77, memory=memory,
    )  # fmt: skip


def test_everything_comes_by_its_time(tmp_path):
    (tmp_path / "samples").mkdir()
    directory = RunDirectory(tmp_path)
    recorder = Recorder(directory)
    coming = wire.ComingGroups(rank=0, time_s=2.5, through_step=9, steps=[3], longest=[200], examples=[5])
    recorder.host(wire.HostSample(time_s=2.0, host=HOST), 0)
    recorder.host(wire.HostSample(time_s=4.0, host=HOST), 0)
    for rank in (0, 1):
        recorder.rank(rank, [rank_row(step(rank, 1, 3.0 + rank / 10), 0)])
        recorder.rank(rank, [rank_row(step(rank, 2, 5.0 + rank / 10, None), 0)])
    recorder.rank(0, [rank_row(wire.MemorySample(rank=0, seq=9, time_s=3.5, step=1, memory=MEMORY), 0)])
    recorder.moment(1.0, wire.RunState(run_id="r", name="r", global_batch=8))
    recorder.coming(coming)
    recorder.close()
    found = list(recorded_run(directory, 100))
    kinds = [(type(each).__name__, each.time_s) for each in found]
    assert kinds == [
        ("Moment", 1.0), ("HostSample", 2.0), ("ComingGroups", 2.5), ("StepReport", 3.0), ("StepReport", 3.1),
        ("HostSample", 4.0), ("StepReport", 5.0), ("StepReport", 5.1),
    ]  # fmt: skip
    assert isinstance(found[0], Moment)
    assert found[0].state.global_batch == 8
    assert found[1].host == msgspec.structs.replace(HOST, capacity_source="the record")
    assert found[2] == coming
    assert found[4] == step(1, 1, 3.1, msgspec.structs.replace(MEMORY, device="the record"))
    assert found[6].memory.capacity_bytes is None


def test_a_recorded_step_is_of_the_device_that_it_was():
    simulated = msgspec.structs.replace(MEMORY, kind="simulated", device="simulated", joins_fragments=True)
    read = of_device(step(0, 1, 3.0, msgspec.structs.replace(MEMORY, device="the record")), simulated)
    assert read.memory == simulated
    assert of_device(step(0, 1, 3.0), None) == step(0, 1, 3.0)
    sample = wire.HostSample(time_s=2.0, host=HOST)
    assert of_device(sample, simulated) is sample


def test_of_a_long_record_the_newest_is_replayed(tmp_path):
    (tmp_path / "samples").mkdir()
    directory = RunDirectory(tmp_path)
    recorder = Recorder(directory)
    for number in range(30):
        recorder.host(wire.HostSample(time_s=number, host=HOST), 0)
        recorder.rank(0, [rank_row(step(0, number, number + 0.5), 0)])
    recorder.close()
    assert [each.time_s for each in recorded_run(directory, 8)] == [26, 26.5, 27, 27.5, 28, 28.5, 29, 29.5]


def test_an_older_record_has_no_orders_and_a_damaged_line_is_left_out(tmp_path):
    (tmp_path / "samples").mkdir()
    directory = RunDirectory(tmp_path)
    assert list(recorded_run(directory, 100)) == []
    recorder = Recorder(directory)
    coming = wire.ComingGroups(rank=0, time_s=2.5, through_step=9, steps=[3], longest=[200], examples=[5])
    recorder.coming(coming)
    recorder.close()
    directory.coming.write_bytes(b"{torn\n" + directory.coming.read_bytes())
    assert list(recorded_run(directory, 100)) == [coming]

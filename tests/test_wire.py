"""Every message survives its bytes; nothing else gets in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdash import wire
from memdash.errors import MalformedMessage

MEMORY = wire.DeviceMemory(
    device="cuda:0", kind="exact", capacity_bytes=100, allocated_bytes=40, reserved_bytes=70, peak_allocated_bytes=60
)
HOST = wire.HostMemory(
    kind="exact",
    process_bytes=10,
    num_processes=1,
    working_set_bytes=50,
    peak_working_set_bytes=80,
    capacity_bytes=100,
    capacity_source="/proc/meminfo: MemTotal",
)

GPU = wire.GpuReading(
    index=0,
    kind="exact",
    uuid="GPU-1",
    total_bytes=100,
    temperature_c=61,
    power_w=71.5,
    processes=[wire.GpuProcess(pid=7, used_bytes=None, ours=True)],
)


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        (wire.from_viewer, wire.SetBatchSplit(command_id="x", micro_batch=4)),
        (wire.to_rank, wire.Stop(command_id="x", save="light")),
        (wire.from_rank, wire.MemorySample(rank=0, seq=1, time_s=1.5, step=2, memory=MEMORY)),
        (wire.from_supervisor, wire.HostSample(time_s=1.0, host=HOST)),
        (wire.from_supervisor, wire.RunState(run_id="r", name='ü\n"', memory=MEMORY, host=HOST, gpus=[GPU])),
        (wire.from_supervisor, wire.GpuSample(time_s=1.0, gpus=[GPU])),
    ],
)
def test_round_trip(decoder, message):
    frame = wire.encode(message)
    assert frame.endswith(b"\n")
    assert frame.count(b"\n") == 1
    assert wire.decode(decoder, frame[:-1]) == message


@pytest.mark.parametrize(
    ("decoder", "frame"),
    [
        (wire.to_rank, wire.encode(wire.Goodbye(rank=0, time_s=1.0, step=1, outcome="finished"))),
        (wire.from_viewer, wire.encode(wire.Welcome(protocol_version=1, run_id="r", attempt=0, pid=1))),
        (wire.from_rank, b'{"type":"Notice"}'),
        (wire.from_viewer, b'{"type":"Pause","command_id":1}'),
        (wire.from_viewer, b'{"type":"Pause","command_id":"x","and":1}'),
        (wire.from_viewer, b"\xff\xfe"),
        (wire.from_viewer, b"[" * 100_000),
    ],
)
def test_what_does_not_belong_is_malformed(decoder, frame):
    with pytest.raises(MalformedMessage):
        wire.decode(decoder, frame.strip())


def test_a_frame_over_the_limit_is_not_sent():
    with pytest.raises(MalformedMessage, match="over 1048576"):
        wire.encode(wire.OutputChunk(text="x" * wire.MAX_FRAME_BYTES))


@given(st.lists(st.binary(min_size=1, max_size=50).filter(lambda b: b"\n" not in b)), st.integers(1, 20))
def test_frames_come_out_as_they_went_in_however_they_are_cut(frames, size):
    stream = b"".join(frame + b"\n" for frame in frames)
    buffer = wire.FrameBuffer()
    found = [frame for start in range(0, len(stream), size) for frame in buffer.feed(stream[start : start + size])]
    assert found == frames


def test_an_endless_frame_is_cut_off():
    buffer = wire.FrameBuffer()
    assert buffer.feed(b"x" * wire.MAX_FRAME_BYTES) == []
    with pytest.raises(MalformedMessage):
        buffer.feed(b"x")


def test_headroom_is_capacity_less_the_last_peak():
    assert wire.device_headroom_bytes(MEMORY) == 40
    assert wire.host_headroom_bytes(HOST) == 20
    assert wire.device_headroom_bytes(None) is None
    assert wire.device_headroom_bytes(wire.DeviceMemory(device="cpu", kind="unavailable")) is None
    assert wire.host_headroom_bytes(None) is None


def torch_memory(**figures: int | bool) -> wire.DeviceMemory:
    return wire.DeviceMemory(device="cuda:0", kind="exact", **{"capacity_bytes": 100, "allocated_bytes": 40, **figures})


HEADROOMS = {
    "nothing but what is allocated": ({}, 60),
    "the peak comes again": ({"peak_allocated_bytes": 70}, 30),
    "what is cached in one piece can be had": ({"reserved_bytes": 90, "inactive_split_bytes": 0}, 60),
    "gaps cannot": ({"reserved_bytes": 60, "inactive_split_bytes": 15}, 45),
    "more gaps than memory unused cannot be": ({"reserved_bytes": 45, "inactive_split_bytes": 15}, 55),
    "expandable segments join them": ({"reserved_bytes": 60, "inactive_split_bytes": 15, "joins_fragments": True}, 60),
    "gaps that the peak had filled are in the peak": (
        {
            "reserved_bytes": 70,
            "inactive_split_bytes": 25,
            "peak_allocated_bytes": 65,
            "peak_reserved_bytes": 70,
        },
        30,
    ),
    "gaps that stayed empty at the peak are lost": (
        {
            "reserved_bytes": 90,
            "inactive_split_bytes": 10,
            "peak_allocated_bytes": 65,
            "peak_reserved_bytes": 90,
        },
        25,
    ),
    "fragments and peak fill it": (
        {
            "reserved_bytes": 100,
            "inactive_split_bytes": 30,
            "peak_allocated_bytes": 80,
            "peak_reserved_bytes": 100,
        },
        0,
    ),
}


@pytest.mark.parametrize(("figures", "headroom"), HEADROOMS.values(), ids=HEADROOMS.keys())
def test_headroom_counts_every_byte_once(figures, headroom):
    assert wire.device_headroom_bytes(torch_memory(**figures)) == headroom


def test_between_two_steps_the_last_steps_peaks_hold():
    step = torch_memory(reserved_bytes=90, peak_allocated_bytes=65, peak_reserved_bytes=90, inactive_split_bytes=10)
    after = torch_memory(reserved_bytes=50, peak_allocated_bytes=40, peak_reserved_bytes=50, inactive_split_bytes=10)
    assert wire.device_headroom_bytes(wire.with_step_peak(after, step)) == wire.device_headroom_bytes(step) == 25

"""A full disk costs samples and says so; it never costs the run."""

from __future__ import annotations

import resource
import signal

import pytest

from memdash import wire
from memdash.store.journal import read_journal
from memdash.store.recorder import Recorder, recorded_gpus, recorded_hosts
from memdash.store.run_directory import RunDirectory

HOST = wire.HostMemory(
    kind="exact",
    process_bytes=1,
    num_processes=1,
    working_set_bytes=2,
    peak_working_set_bytes=3,
    capacity_bytes=4,
    capacity_source="x",
)


@pytest.fixture
def full_disk():
    """A limit on file size stands in for a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk(tmp_path, full_disk):
    (tmp_path / "samples").mkdir()
    directory = RunDirectory(tmp_path)
    recorder = Recorder(directory)
    host_file = tmp_path / "samples" / "host.rec"
    recorder.host(wire.HostSample(time_s=1.0, host=HOST), 0)
    full_disk(host_file.stat().st_size + 20)  # room for a part of a row
    recorder.host(wire.HostSample(time_s=2.0, host=HOST), 0)
    recorder.state(wire.RunState(run_id="x", name="x" * 10_000))
    assert recorder.error
    assert recorder.lost == 2
    full_disk(1 << 30)
    recorder.host(wire.HostSample(time_s=3.0, host=HOST), 0)
    assert recorder.lost == 2
    recorder.close()
    assert [row["time_s"] for row in recorded_hosts(directory)] == [1.0, 3.0]
    assert directory.state() is None
    assert read_journal(directory.journal) == []


def test_the_journal_waits_for_room(tmp_path, full_disk, monkeypatch):
    """What happened is told when the disk takes it, in order; the oldest is given up when it is too much."""
    monkeypatch.setattr("memdash.store.recorder.MAX_OWED", 3)
    (tmp_path / "samples").mkdir()
    directory = RunDirectory(tmp_path)
    recorder = Recorder(directory)

    def journal(seq: int) -> None:
        recorder.journal(
            wire.JournalEntry(seq=seq, time_s=1.0, attempt=0, step=0, level="info", kind="notice", text="x" * 100)
        )

    journal(1)
    full_disk(directory.journal.stat().st_size + 20)
    for seq in range(2, 6):
        journal(seq)
    assert (recorder.failed, recorder.lost) == (4, 1)
    assert [entry.seq for entry in read_journal(directory.journal)] == [1]
    full_disk(1 << 30)
    journal(6)
    assert (recorder.failed, recorder.lost) == (4, 1)
    assert [entry.seq for entry in read_journal(directory.journal)] == [1, 3, 4, 5, 6]
    full_disk(directory.journal.stat().st_size + 20)
    journal(7)
    full_disk(1 << 30)
    recorder.close()
    assert [entry.seq for entry in read_journal(directory.journal)] == [1, 3, 4, 5, 6, 7]


def test_gpus_are_recorded_by_their_place(tmp_path):
    (tmp_path / "samples").mkdir()
    directory = RunDirectory(tmp_path)
    recorder = Recorder(directory)
    whole = wire.GpuReading(index=3, kind="exact", total_bytes=80, used_bytes=30, power_w=71.5)
    instance = wire.GpuReading(index=5, instance=1, kind="unavailable")
    recorder.gpus(wire.GpuSample(time_s=1.0, gpus=[whole, instance]), 0)
    recorder.gpus(wire.GpuSample(time_s=2.0, gpus=[whole]), 1)
    recorder.close()
    rows = [(place, row["time_s"], row["attempt"], row["index"]) for place, row in recorded_gpus(directory)]
    assert rows == [(0, 1.0, 0, 3), (0, 2.0, 1, 3), (1, 1.0, 0, 5)]
    first, *_, last = (row for _, row in recorded_gpus(directory))
    assert (first["instance"], first["used_bytes"], first["others_bytes"], first["power_w"]) == (None, 30, None, 71.5)
    assert (last["instance"], last["used_bytes"]) == (1, None)

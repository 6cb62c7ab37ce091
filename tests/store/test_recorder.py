"""A full disk costs samples and says so; it never costs the run."""

from __future__ import annotations

import resource
import signal

import pytest

from memdash import wire
from memdash.store.journal import read_journal
from memdash.store.recorder import Recorder, recorded_hosts
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
    assert recorder.error == ""
    recorder.close()
    assert [row["time_s"] for row in recorded_hosts(directory)] == [1.0, 3.0]
    assert directory.state() is None
    assert read_journal(directory.journal) == []

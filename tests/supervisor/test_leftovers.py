"""What killed processes leave behind: sockets, half-written files, numbers that others have by now."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from memdash.locations import runs_dir, sockets_dir
from memdash.store.process_record import ProcessRecord, clear_leftovers, read_process, write_process
from memdash.store.run_directory import RunDirectory, RunRecord, create_run
from memdash.supervisor import launch
from memdash.supervisor.launch import clear_stale_sockets, dismiss_supervisor


def bound(name: str, *, age_s: float, listens: bool) -> tuple[Path, socket.socket]:
    path = sockets_dir() / f"{name}.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    if listens:
        server.listen()
    changed_s = path.stat().st_mtime - age_s
    os.utime(path, (changed_s, changed_s))
    return path, server


def test_only_old_sockets_that_nobody_listens_on_go():
    stale, live, young = (
        bound("stale", age_s=100, listens=False),
        bound("live", age_s=100, listens=True),
        bound("young", age_s=10, listens=False),
    )
    stale[1].close()
    (sockets_dir() / "not-a-socket.sock").write_text("")
    clear_stale_sockets(sockets_dir())
    assert {path.name for path in sockets_dir().iterdir()} == {"live.sock", "young.sock", "not-a-socket.sock"}
    live[1].close()
    young[1].close()


@pytest.fixture
def directory() -> RunDirectory:
    record = RunRecord(run_id="r", name="r", created_s=1.0, argv=["x"], cwd="/")
    return create_run(record, config_json=b"{}", config_toml="", parent=runs_dir())


def test_half_written_files_of_the_dead_go(directory):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        (directory.path / f".state.json.tmp-{pid}").write_text("{")
    clear_leftovers(directory)
    assert [path.name for path in directory.path.glob(".*")] == [f".state.json.tmp-{os.getpid()}"]


def test_a_stranger_who_has_the_number_of_a_dead_supervisor_is_left_alone(directory, monkeypatch):
    monkeypatch.setattr(launch, "DISMISS_TIMEOUT_S", 0.1)
    with subprocess.Popen(["sleep", "100"]) as stranger:
        directory.lock.write_text(f"{stranger.pid}\n")
        assert dismiss_supervisor(directory)
        assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize("text", ["", "{}", '{"attempt": "x"}', "\0"])
def test_a_record_that_cannot_be_read_is_none(directory, text):
    assert read_process(directory, 0) is None
    (directory.path / "process.json").write_text(text)
    assert read_process(directory, 0) is None


def test_the_record_of_another_attempt_is_none(directory):
    record = ProcessRecord(attempt=1, pid=2, started=3, boot_id="b", supervisor_pid=4, output_bytes=5)
    write_process(directory, record)
    assert read_process(directory, 0) is None
    assert read_process(directory, 1) == record

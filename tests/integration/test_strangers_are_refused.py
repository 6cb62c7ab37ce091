"""Malformed, oversized, unknown and truncated frames, another uid, a wrong run, a second supervisor: turned away."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys

import pytest

from memdash import wire
from memdash.client import Client
from memdash.errors import SupervisorAlreadyRunning, VersionMismatch
from memdash.locations import socket_path, sockets_dir
from memdash.supervisor.launch import launch_supervisor

HELLO = {"type": "Hello", "role": "viewer", "protocol_version": wire.PROTOCOL_VERSION, "run_id": "fake", "pid": 1}


def connect(run_id: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(20)
    connection.connect(str(socket_path(run_id)))
    return connection


def hello(**changes: object) -> bytes:
    return json.dumps(HELLO | changes).encode() + b"\n"


def read_to_end(connection: socket.socket) -> bytes:
    data = b""
    try:
        while chunk := connection.recv(1 << 16):
            data += chunk
    except ConnectionResetError:
        pass
    return data


BAD = {
    "not JSON": b"GET / HTTP/1.1\r\n\r\n",
    "unknown type": b'{"type":"Launch"}\n',
    "unknown field": hello(follow=False, shell="rm"),
    "not a Hello first": b'{"type":"Pause","command_id":"x"}\n',
    "wrong type of a field": hello(pid="one"),
    "binary": bytes(range(256)) * 4 + b"\n",
    "deep nesting": b"[" * 200_000 + b"\n",
}


@pytest.mark.parametrize("frame", BAD.values(), ids=BAD.keys())
async def test_nonsense_is_dropped_and_the_run_goes_on(start_run, watch, frame):
    run = start_run()
    watcher = await watch(run)
    await watcher.state(lambda state: state.linked, "the rank's connection")
    with connect(run.run_id) as stranger:
        stranger.sendall(frame)
        assert await asyncio.to_thread(read_to_end, stranger) == b""
    run.wait_for_journal("connection dropped")
    run.order("s")
    await watcher.state(lambda state: state.step == 1, "a step after the nonsense")


async def test_oversized_and_truncated_frames(start_run, watch):
    run = start_run()
    watcher = await watch(run)
    await watcher.state(lambda state: state.linked, "the rank's connection")
    with connect(run.run_id) as stranger:
        try:
            stranger.sendall(b"x" * (wire.MAX_FRAME_BYTES + 65536 * 4))
        except (BrokenPipeError, ConnectionResetError):
            pass
        await asyncio.to_thread(read_to_end, stranger)
    run.wait_for_journal(f"a frame of more than {wire.MAX_FRAME_BYTES} bytes")
    with connect(run.run_id) as stranger:
        stranger.sendall(hello()[:20])
    run.order("s")
    await watcher.state(lambda state: state.step == 1, "a step after the oversized frame")


async def test_a_viewer_that_starts_to_talk_nonsense_is_dropped(start_run):
    run = start_run()
    with connect(run.run_id) as stranger:
        stranger.sendall(hello(follow=False))
        stranger.sendall(b'{"type":"StepReport","rank":0}\n')
        answer = await asyncio.to_thread(read_to_end, stranger)
    assert wire.decode(wire.from_supervisor, answer.splitlines()[0]).run_id == "fake"
    run.wait_for_journal("connection dropped")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"run_id": "other"}, "this is run fake, not other"),
        ({"protocol_version": 99}, "protocol 99"),
        ({"role": "rank", "attempt": 7}, "attempt 7 is over"),
    ],
)
async def test_wrong_run_version_or_attempt_is_refused_with_the_reason(start_run, changes, reason):
    run = start_run()
    with connect(run.run_id) as stranger:
        stranger.sendall(hello(**changes))
        answer = await asyncio.to_thread(read_to_end, stranger)
    refused = wire.decode(wire.from_supervisor, answer.splitlines()[0])
    assert isinstance(refused, wire.Refused)
    assert reason in refused.reason


async def test_the_client_says_why_it_was_refused(start_run, monkeypatch):
    run = start_run()
    monkeypatch.setattr(wire, "PROTOCOL_VERSION", 99)
    with pytest.raises(VersionMismatch, match="protocol 99"):
        await Client.connect(run.run_id)


def test_socket_and_directory_are_private(start_run):
    run = start_run()
    assert stat.S_IMODE(socket_path(run.run_id).stat().st_mode) == 0o600
    assert stat.S_IMODE(sockets_dir().stat().st_mode) == 0o700
    assert stat.S_IMODE(run.directory.path.stat().st_mode) == 0o700


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_uid_is_refused_even_if_the_files_let_it_in(start_run):
    run = start_run()
    path = socket_path(run.run_id)
    path.chmod(0o777)
    path.parent.chmod(0o755)
    code = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1])\n"
        "s.sendall(sys.argv[2].encode())\n"
        "print(len(s.recv(1000)))\n"
    )
    python = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
    done = subprocess.run(
        [python, "-c", code, str(path), hello().decode()], capture_output=True, text=True, timeout=30, cwd="/"
    )
    if done.returncode and "Permission denied" in done.stderr and "python" in done.stderr:
        pytest.skip("the interpreter cannot be read by another user")
    assert done.stdout.strip() in ("0", ""), done.stderr
    run.wait_for_journal("a connection of uid 65534")


def test_a_second_supervisor_is_refused(start_run):
    run = start_run()
    first = run.supervisor_pid()
    with pytest.raises(SupervisorAlreadyRunning):
        launch_supervisor(run.directory)
    assert run.supervisor_pid() == first


async def test_a_rank_whose_figures_cannot_be_is_dropped_and_the_supervisor_lives(start_run, watch):
    run = start_run("--mute")
    watcher = await watch(run)
    with connect(run.run_id) as liar:
        liar.sendall(hello(role="rank"))
        started = {"type": "TrainingStarted", "rank": 0, "time_s": 1.0, "start_step": 0, "total_steps": 9}
        impossible = {"steps_per_epoch": 3, "num_examples": 5, "global_batch": 4, "micro_batch": 99}
        liar.sendall(json.dumps(started | impossible).encode() + b"\n")
        await asyncio.to_thread(read_to_end, liar)
    run.wait_for_journal("micro_batch=99 is not between 1 and 4")
    await watcher.until(lambda m: isinstance(m, wire.HostSample), "a sign of life")

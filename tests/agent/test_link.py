"""The outbox is bounded and never blocks; the link comes back by itself."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from memdash import wire
from memdash.agent.link import KEPT_BYTES, Frame, Link, Outbox
from memdash.agent.session import Session
from memdash.ring import RingReader
from tests.conftest import wait_until


@pytest.fixture
def path() -> Path:
    return Path(os.environ["MEMDASH_RUNTIME_DIR"]) / "test.sock"


@pytest.fixture
def listen(path):
    """Makes listening sockets at the same path."""
    sockets = []

    def start() -> socket.socket:
        path.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX)
        server.settimeout(20)
        server.bind(str(path))
        server.listen()
        sockets.append(server)
        return server

    yield start
    for server in sockets:
        server.close()


def hello() -> list[wire.Message]:
    return [wire.Hello(role="rank", protocol_version=1, run_id="r", pid=os.getpid())]


def notice(number: int) -> wire.Notice:
    return wire.Notice(rank=0, time_s=1.0 + number, step=number, level="info", text="x" * 200)


def accept(server: socket.socket, heard: int | None = None) -> socket.socket:
    """A connection that was welcomed; `heard` is the number of the last notice that a supervisor knows."""
    connection, _ = server.accept()
    heard_s = 0.0 if heard is None else 1.0 + heard
    connection.sendall(
        wire.encode(wire.Welcome(protocol_version=1, run_id="r", attempt=0, pid=os.getpid(), heard_s=heard_s))
    )
    return connection


def read_steps(connection: socket.socket, count: int) -> list[int]:
    """Steps of the first `count` notices after the Hello."""
    frames = wire.FrameBuffer()
    steps: list[int] = []
    connection.settimeout(20)
    while len(steps) < count:
        for frame in frames.feed(connection.recv(1 << 16)):
            message = wire.decode(wire.from_rank, frame)
            if isinstance(message, wire.Notice):
                steps.append(message.step)
    return steps


def test_the_oldest_sample_goes_first_and_events_stay():
    outbox: Outbox[bytes] = Outbox(max_samples=2, max_events=10)
    for name, sample in (("a", True), ("b", False), ("c", True), ("d", True), ("e", False)):
        outbox.put(name.encode(), sample=sample)
    assert len(outbox) == 4
    assert list(outbox) == [b"b", b"c", b"d", b"e"]
    assert [outbox.pop() for _ in range(5)] == [b"b", b"c", b"d", b"e", None]
    assert (outbox.dropped_samples, outbox.dropped_events) == (1, 0)


def test_even_events_are_bounded():
    outbox: Outbox[bytes] = Outbox(max_samples=2, max_events=3)
    for number in range(10):
        outbox.put(b"%d" % number, sample=False)
    assert [outbox.pop() for _ in range(4)] == [b"7", b"8", b"9", None]
    assert outbox.dropped_events == 7


def test_what_is_put_before_there_is_a_supervisor_arrives(path, listen):
    link = Link(str(path), hello)
    link.start()
    for number in range(5):
        link.put(notice(number))
    server = listen()
    connection = accept(server)
    assert read_steps(connection, 5) == [0, 1, 2, 3, 4]
    link.close()
    connection.close()


def test_the_last_words_arrive_however_long_there_was_no_supervisor(path, listen, monkeypatch):
    link = Link(str(path), hello)
    tries = []
    real = link._connect
    monkeypatch.setattr(link, "_connect", lambda: tries.append(1) or real())
    link.start()
    wait_until(lambda: len(tries) == 4, "the fourth try")
    server = listen()
    link.put(notice(1))
    closing = threading.Thread(target=link.close)
    closing.start()
    connection = accept(server)
    assert read_steps(connection, 1) == [1]
    closing.join(20)
    connection.close()


def test_commands_arrive(path, listen):
    server = listen()
    link = Link(str(path), hello)
    link.start()
    connection = accept(server)
    connection.sendall(
        wire.encode(wire.Pause(command_id="a")) + wire.encode(wire.SetBatchSplit(command_id="b", micro_batch=2))
    )
    assert link.commands.get(timeout=20) == wire.Pause(command_id="a")
    assert link.commands.get(timeout=20) == wire.SetBatchSplit(command_id="b", micro_batch=2)
    link.close()
    connection.close()


def test_it_reconnects_and_says_again_what_was_not_heard(path, listen):
    server = listen()
    link = Link(str(path), hello)
    link.start()
    connection = accept(server)
    for number in range(4):
        link.put(notice(number))
    assert read_steps(connection, 4) == [
        0,
        1,
        2,
        3,
    ]  # by a supervisor that dies before it has written down the last two
    connection.close()
    server.close()
    wait_until(lambda: link._socket is None, "the link to notice")
    link.put(notice(4))
    connection = accept(listen(), heard=1)
    assert read_steps(connection, 3) == [2, 3, 4]
    link.put(notice(5))
    assert read_steps(connection, 1) == [5]
    link.close()
    connection.close()


def test_nothing_is_sent_before_the_welcome(path, listen):
    server = listen()
    link = Link(str(path), hello)
    link.start()
    connection, _ = server.accept()
    link.put(notice(1))
    assert connection.recv(1 << 16).count(b"\n") == 1
    connection.settimeout(0.1)
    with pytest.raises(TimeoutError):
        connection.recv(1 << 16)
    link.close(timeout_s=0.1)
    connection.close()


def test_the_frame_that_a_dying_supervisor_did_not_take_is_sent_to_the_next(path, listen):
    server = listen()
    link = Link(str(path), hello)
    link.start()
    connection = accept(server)
    wait_until(lambda: link._welcomed, "the welcome")
    with link._lock:  # before the link's thread notices
        connection.close()
        server.close()
        link._outbox.put(Frame(wire.encode(notice(1)), 2.0), sample=True)
        assert not link._flush()
    connection = accept(listen())
    assert read_steps(connection, 1) == [1]
    link.close()
    connection.close()


def test_a_frame_cut_in_two_by_the_end_of_a_connection_is_sent_again_whole(path, listen):
    server = listen()
    link = Link(str(path), hello)
    link.start()
    connection = accept(server)
    wait_until(lambda: link._welcomed, "the welcome")
    for number in range(9):
        text = "x" * (500 << 10)
        link.put(wire.Notice(rank=0, time_s=1.0 + number, step=number, level="info", text=text))
    connection.setblocking(False)
    data = b""
    with link._lock:
        with contextlib.suppress(BlockingIOError):
            while True:
                data += connection.recv(1 << 16)
        connection.close()
        server.close()
    whole, _, half = data.rpartition(b"\n")
    assert half
    came = whole.count(b'"Notice"')
    connection = accept(listen(), heard=came - 1)
    assert read_steps(connection, 9 - came) == list(range(came, 9))
    link.close()
    connection.close()


def test_what_is_kept_for_the_next_supervisor_is_bounded(path, listen):
    server = listen()
    link = Link(str(path), hello)
    link.start()
    connection = accept(server)
    size, count = len(wire.encode(notice(10_000))), 2 * KEPT_BYTES // len(wire.encode(notice(0)))
    for number in range(count):
        link.put(notice(number))
        if number % 1000 == 999:
            read_steps(connection, 1000)
    wait_until(lambda: not link._outbox, "the last frame to leave")
    assert KEPT_BYTES - size <= sum(len(frame.data) for frame in link._sent) <= KEPT_BYTES
    assert len(link.unheard()) == 1 + len(link._sent)
    link.close()
    connection.close()


def test_a_frozen_supervisor_costs_samples_and_no_time(path, listen):
    server = listen()
    link = Link(str(path), hello)
    link.start()
    connection = accept(server)  # and never reads
    wait_until(lambda: link._welcomed, "the welcome")
    slowest_s = 0.0
    for number in range(20_000):
        began_s = time.thread_time()
        link.put(notice(number), sample=True)
        slowest_s = max(slowest_s, time.thread_time() - began_s)
    assert slowest_s < 0.05  # of this thread's own CPU: nothing in put can wait
    assert link.dropped_samples > 10_000
    began_s = time.monotonic()
    link.close(timeout_s=0.2)
    assert time.monotonic() - began_s < 5
    connection.close()


def test_a_refused_rank_does_not_come_back(path, listen):
    server = listen()
    link = Link(str(path), hello)
    link.start()
    connection, _ = server.accept()
    assert b'"Hello"' in connection.recv(1 << 16)
    connection.sendall(wire.encode(wire.Refused(reason="attempt 0 is over")))
    connection.close()
    link._thread.join(20)
    assert not link._thread.is_alive()
    assert link.refused == "attempt 0 is over"
    link.close()


def test_a_forked_child_has_no_link(path, listen):
    server = listen()
    link = Link(str(path), hello)
    link.start()
    connection = accept(server)
    link._pid += 1  # as after a fork
    link.put(notice(1))
    link._pid -= 1
    link.put(notice(2))
    assert read_steps(connection, 1) == [2]
    link.close()
    connection.close()


def accepted(server: socket.socket, *, reads_ring: bool) -> socket.socket:
    connection, _ = server.accept()
    welcome = wire.Welcome(protocol_version=1, run_id="r", attempt=0, pid=os.getpid(), reads_ring=reads_ring)
    connection.sendall(wire.encode(welcome))
    connection.settimeout(20)
    return connection


def read_until_goodbye(connection: socket.socket) -> list[str | int]:
    """Names of events and steps of samples, in the order in which they came."""
    frames, said = wire.FrameBuffer(), []
    while "Goodbye" not in said:
        for frame in frames.feed(connection.recv(1 << 16)):
            message = wire.decode(wire.from_rank, frame)
            said.append(message.step if isinstance(message, wire.StepReport) else type(message).__name__)
    return said


@pytest.mark.parametrize("reads_ring", [False, True])
def test_samples_are_sent_only_to_who_cannot_read_them_from_the_ring(path, listen, monkeypatch, reads_ring):
    monkeypatch.setenv("MEMDASH_SOCKET", str(path))
    monkeypatch.setenv("MEMDASH_RUN_DIR", "")
    server = listen()
    session = Session()
    session.start(total_steps=9, global_batch=4, micro_batch=4)
    connection = accepted(server, reads_ring=reads_ring)
    wait_until(lambda: session._link and session._link._welcomed, "the welcome")
    for number in range(1, 4):
        session.end_step(loss=1.0, step_time_s=0.1, examples_seen=4, micro_batch=4, grad_accum_steps=1)
        if number == 2:
            session.notice("between two steps")
    session.finish()
    said = read_until_goodbye(connection)[3:]  # after Hello, TrainingStarted, PhaseChanged
    steps = [] if reads_ring else [1, 2, 3]
    assert said == [*steps[:2], "Notice", *steps[2:], "Goodbye"]
    connection.close()


def test_a_slow_loop_is_seen_in_time_by_who_cannot_read_the_ring(path, listen, monkeypatch):
    monkeypatch.setenv("MEMDASH_SOCKET", str(path))
    server = listen()
    session = Session()
    session.start(total_steps=9, global_batch=4, micro_batch=4)
    connection = accepted(server, reads_ring=False)
    frames, steps = wire.FrameBuffer(), []
    session.end_step(loss=1.0, step_time_s=0.1, examples_seen=4, micro_batch=4, grad_accum_steps=1)
    while not steps:  # and nothing else is ever put
        messages = [wire.decode(wire.from_rank, frame) for frame in frames.feed(connection.recv(1 << 16))]
        steps = [message.step for message in messages if isinstance(message, wire.StepReport)]
    assert steps == [1]
    session._ended = True
    assert session._link
    session._link.close()
    connection.close()


def test_a_forked_child_writes_into_nobodys_ring(path, monkeypatch):
    monkeypatch.setenv("MEMDASH_SOCKET", str(path))
    session = Session()
    assert session._ring
    reader = RingReader(session._ring.memory, 0)
    pid = os.fork()
    if pid == 0:  # as a DataLoader worker that gets hold of the session
        try:
            session.end_step(loss=1.0, step_time_s=0.1, examples_seen=4, micro_batch=4, grad_accum_steps=1)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    session.end_step(loss=1.0, step_time_s=0.1, examples_seen=4, micro_batch=4, grad_accum_steps=1)
    assert [sample.seq for sample in reader.take()] == [1]


def test_the_last_words_hold_what_nobody_has_read_in_the_order_of_time(path, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMDASH_SOCKET", str(path))  # at which nobody listens
    monkeypatch.setenv("MEMDASH_RUN_DIR", str(tmp_path))
    session = Session()
    for number in range(1, 4):
        session.end_step(loss=1.0, step_time_s=0.1, examples_seen=4, micro_batch=4, grad_accum_steps=1)
        session.notice(f"after {number}")
    assert session._link
    messages = [wire.decode(wire.from_rank, frame.rstrip()) for frame in session._link.unheard()[2:]]
    said = [message.text if isinstance(message, wire.Notice) else message.step for message in messages]
    assert said == [1, "after 1", 2, "after 2", 3, "after 3"]

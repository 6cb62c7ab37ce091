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

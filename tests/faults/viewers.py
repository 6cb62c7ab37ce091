"""Faults of dashboards, and of strangers at the socket: none of them may cost the run anything."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from memdash import wire
from memdash.agent.link import Link
from tests.faults.storm import OUTCOMES, Evidence, Fault, Storm, end
from tests.faults.waiting import Stuck, pause

STORM_SIZE, STORM_ROUNDS = 20, 3
ANSWER_S = 20.0
THAW_S = 40.0  # a line of progress comes every five seconds; a busy machine takes its time


def killed(storm: Storm) -> Evidence:
    """kill -9, a hangup, Ctrl-C."""
    viewer, _ = storm.viewer()
    pause(storm.chance.uniform(0, 1))
    viewer.send_signal(storm.chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGHUP, signal.SIGINT]))
    try:
        viewer.wait(timeout=ANSWER_S)
    except subprocess.TimeoutExpired:
        raise Stuck(f"a viewer did not end within {ANSWER_S:.0f} s") from None
    finally:
        end(viewer)
    return {}


def frozen(storm: Storm) -> Evidence:
    """SIGSTOP for a while, as when a laptop is closed; after SIGCONT it watches on."""
    viewer, output = storm.viewer()
    viewer.send_signal(signal.SIGSTOP)
    storm.in_background(_thaw(storm, viewer, output))
    return {}


def _thaw(storm: Storm, viewer: subprocess.Popen[bytes], output: Path) -> Iterator[None]:
    try:
        yield from storm.for_a_while(2, 8)
        size = output.stat().st_size
        viewer.send_signal(signal.SIGCONT)
        deadline_s = time.monotonic() + THAW_S
        while output.stat().st_size == size and viewer.poll() is None:
            if time.monotonic() > deadline_s:
                raise Stuck(f"a thawed viewer said nothing for {THAW_S:.0f} s")
            yield
        if viewer.poll() not in OUTCOMES:
            raise Stuck(f"a thawed viewer exited with {viewer.returncode}: {output.read_text()[-300:]}")
    finally:
        end(viewer)


def deaf(storm: Storm) -> Evidence:
    """Says Hello and never reads."""
    connection = _connect(storm)
    connection.sendall(_hello(storm))
    storm.in_background(_hold(storm, connection))
    return {}


def _hold(storm: Storm, connection: socket.socket) -> Iterator[None]:
    with connection:
        yield from storm.for_a_while(4, 12)


def reconnecting(storm: Storm) -> Evidence:
    """Twenty at once, again and again; every one is welcome."""
    for _ in range(STORM_ROUNDS):
        with contextlib.ExitStack() as stack:
            crowd = [stack.enter_context(_connect(storm)) for _ in range(STORM_SIZE)]
            for connection in crowd:
                connection.sendall(_hello(storm))
            for connection in crowd:
                if b"Welcome" not in (answer := _answer(connection)):
                    raise Stuck(f"a viewer was answered {answer[:200]!r}")
    return {}


def garbage(storm: Storm) -> Evidence:
    """Bytes that are no message, as the first ones or after a Hello."""
    hello, chance = _hello(storm), storm.chance
    stranger = json.loads(hello) | {"run_id": "another-run"}
    nonsense = [
        chance.randbytes(2000) + b"\n",
        b"[" * 100_000 + b"\n",
        b"x" * (wire.MAX_FRAME_BYTES + 2),
        hello + chance.randbytes(200) + b"\n",
        hello + hello[: len(hello) // 2] + b"\n",
        json.dumps(stranger).encode() + b"\n",
    ]
    chosen = chance.sample(nonsense, 3)
    for data in chosen:
        with _connect(storm) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            while _answer(connection):  # until it is hung up on
                pass
    return {r"link: connection dropped: (pid|refused)": len(chosen)}


def impostor(storm: Storm) -> Evidence:
    """A rank of an attempt that never was: refused, and the real one is heard on."""
    greeting = wire.Hello(
        role="rank",
        protocol_version=wire.PROTOCOL_VERSION,
        run_id=storm.training.run_id,
        pid=os.getpid(),
        attempt=4711,
    )
    link = Link(str(storm.training.socket), lambda: [greeting])
    link.start()
    deadline_s = time.monotonic() + ANSWER_S
    while not link.refused and time.monotonic() < deadline_s:
        pause(0.05)
    link.close()
    return {r"refused pid \d+: attempt 4711 is over": 1}


def _hello(storm: Storm) -> bytes:
    return wire.encode(
        wire.Hello(role="viewer", protocol_version=wire.PROTOCOL_VERSION, run_id=storm.training.run_id, pid=os.getpid())
    )


def _connect(storm: Storm) -> socket.socket:
    """Raises Stuck."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(ANSWER_S)
    try:
        connection.connect(os.fspath(storm.training.socket))
    except OSError as error:
        connection.close()
        raise Stuck(f"no connection: {error}") from None
    return connection


def _answer(connection: socket.socket) -> bytes:
    """What comes next; nothing at the end. Raises Stuck."""
    try:
        return connection.recv(1 << 16)
    except TimeoutError:
        raise Stuck(f"the supervisor did not answer within {ANSWER_S:.0f} s") from None
    except ConnectionError:
        return b""


FAULTS = [
    Fault("viewer: killed", killed, "nothing"),
    Fault("viewer: frozen, then thawed", frozen, "nothing"),
    Fault("viewer: never reads", deaf, "nothing"),
    Fault("viewer: 20 reconnecting", reconnecting, "nothing"),
    Fault("socket: garbage", garbage, "nothing"),
    Fault("socket: an impostor rank", impostor, "nothing"),
]

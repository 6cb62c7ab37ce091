"""The supervisor's socket: who may connect, who is a rank, who is a dashboard, and where their frames go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from memdash import wire
from memdash.errors import MemdashError
from memdash.ring import RingReader
from memdash.supervisor.fanout import HISTORY_BYTES, MAX_VIEWERS, Viewer
from memdash.supervisor.launch import clear_stale_sockets

HELLO_TIMEOUT_S = 10.0
_UCRED = struct.Struct("3i")


class Owner(Protocol):
    """What the server needs of the supervisor."""

    @property
    def run_id(self) -> str:
        """The run that is served."""

    @property
    def attempt(self) -> int:
        """The launch that goes on now."""

    def heard_s(self, rank: int) -> float:
        """Time of the newest message of a rank that is known."""

    def rank_joined(self, hello: wire.Hello) -> None:
        """A rank has said hello."""

    def rank_said(self, message: wire.Telemetry) -> None:
        """A rank has sent telemetry or an ack."""

    def rank_sampled(self, ring: RingReader, rank: int) -> None:
        """A rank may have written into its ring."""

    def rank_left(self, rank: int) -> None:
        """A rank's connection has ended."""

    def viewer_joined(self, viewer: Viewer) -> None:
        """A dashboard wants telemetry."""

    def viewer_asked(self, viewer: Viewer, command: wire.Command) -> None:
        """A dashboard, or a verb, has sent a command."""

    def viewer_left(self, viewer: Viewer) -> None:
        """A dashboard has gone."""

    def intruded(self, reason: str) -> None:
        """A connection was dropped for what it is or what it sent."""


class Server:
    """Listens on the run's socket."""

    def __init__(self, owner: Owner, path: Path) -> None:
        self._owner = owner
        self._path = path
        self._server: asyncio.Server | None = None
        self.ranks: dict[int, Connection] = {}
        self.connections: set[Connection] = set()

    async def start(self) -> None:
        """Bind with mode 0600, replacing a socket that a dead supervisor has left; the run's lock is held by now."""
        clear_stale_sockets(self._path.parent)
        self._path.unlink(missing_ok=True)
        with _umask(0o177):
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(os.fspath(self._path))
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Connection(self, self._owner), sock=listener, backlog=128)

    def send_to_ranks(self, command: wire.Command) -> set[int]:
        """Hand a command to every connected rank; the ranks it went to."""
        frame = wire.encode(command)
        for connection in self.ranks.values():
            connection.write(frame)
        return set(self.ranks)

    def look_into_rings(self) -> None:
        """Take what ranks have written there since the last look."""
        for connection in list(self.ranks.values()):
            connection.look()

    async def stop(self) -> None:
        """Hang up and remove the socket."""
        if self._server:
            self._server.close()
        for connection in list(self.connections):
            connection.close()
        self._path.unlink(missing_ok=True)


class Connection(asyncio.Protocol):
    """One peer; nothing it sends is believed before its uid and its Hello are checked."""

    def __init__(self, server: Server, owner: Owner) -> None:
        self._server = server
        self._owner = owner
        self._frames = wire.FrameBuffer()
        self._transport: asyncio.Transport
        self._peer_pid = 0
        self._rank: int | None = None
        self._ring: RingReader | None = None
        self._viewer: Viewer | None = None
        self._hello_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Check the peer's uid and start to wait for its Hello."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._peer_pid, uid = _peer(transport)
        if uid != os.getuid():
            self._drop(f"a connection of uid {uid}")
        elif len(self._server.connections) >= MAX_VIEWERS + 64:
            self._drop("too many connections")
        else:
            self._server.connections.add(self)
            loop = asyncio.get_running_loop()
            self._hello_timer = loop.call_later(HELLO_TIMEOUT_S, self._drop, "a connection that never said Hello")

    def data_received(self, data: bytes) -> None:
        """Cut into frames and hand on; a peer that sends nonsense is dropped."""
        if self._transport.is_closing():
            return
        self.look()  # what was sampled before something was said comes before it
        with self._not_believed():
            for frame in self._frames.feed(data):
                self._frame(frame)

    def look(self) -> None:
        """Hand on what the peer has written into its ring; one that holds nonsense is dropped."""
        if self._ring is not None and self._rank is not None:
            with self._not_believed():
                self._owner.rank_sampled(self._ring, self._rank)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the peer."""
        self.look()
        self._ring = None
        self._server.connections.discard(self)
        if self._hello_timer:
            self._hello_timer.cancel()
        if self._rank is not None and self._server.ranks.get(self._rank) is self:
            del self._server.ranks[self._rank]
            self._owner.rank_left(self._rank)
        if self._viewer is not None:
            self._viewer.room.set()
            self._owner.viewer_left(self._viewer)

    def pause_writing(self) -> None:
        """The peer has much to read."""
        if self._viewer is not None:
            self._viewer.room.clear()

    def resume_writing(self) -> None:
        """It has read most of it."""
        if self._viewer is not None:
            self._viewer.room.set()

    def write(self, frame: bytes) -> None:
        """Queue a frame."""
        self._transport.write(frame)

    def close(self) -> None:
        """Hang up after what is queued."""
        self._transport.close()

    def _frame(self, frame: bytes) -> None:
        if self._rank is not None:
            self._owner.rank_said(wire.decode(wire.from_rank, frame))
        elif self._viewer is not None:
            message = wire.decode(wire.from_viewer, frame)
            if isinstance(message, wire.PlaybackCommand):
                self.write(wire.encode(_no_recording(message)))
            elif not isinstance(message, wire.Hello):
                self._owner.viewer_asked(self._viewer, message)
        else:
            self._greet(wire.decode(wire.hello, frame))

    @contextlib.contextmanager
    def _not_believed(self) -> Iterator[None]:
        """Drop a peer that says what is not a message, or one whose figures cannot be."""
        try:
            yield
        except MemdashError as error:
            who = f"rank {self._rank}" if self._rank is not None else f"pid {self._peer_pid}"
            self._drop(f"{who} sent {str(error)[:200]}")

    def _greet(self, hello: wire.Hello) -> None:
        if reason := self._unwelcome(hello):
            self._refuse(*reason)
            return
        if self._hello_timer:
            self._hello_timer.cancel()
        self._ring = _ring(self._peer_pid, hello)
        welcome = wire.Welcome(
            protocol_version=wire.PROTOCOL_VERSION,
            run_id=self._owner.run_id,
            attempt=self._owner.attempt,
            pid=os.getpid(),
            heard_s=self._owner.heard_s(hello.rank) if hello.role == "rank" else 0.0,
            reads_ring=self._ring is not None,
        )
        self.write(wire.encode(welcome))
        if hello.role == "rank":
            self._rank = hello.rank
            self._server.ranks[hello.rank] = self
            self._owner.rank_joined(hello)
        else:
            self._viewer = Viewer(self._transport, self._peer_pid)
            self._transport.set_write_buffer_limits(high=HISTORY_BYTES)
            if hello.follow:
                self._owner.viewer_joined(self._viewer)

    def _unwelcome(self, hello: wire.Hello) -> tuple[str, str] | None:
        if hello.protocol_version != wire.PROTOCOL_VERSION:
            ours, theirs = wire.PROTOCOL_VERSION, hello.protocol_version
            return f"protocol {theirs}, the supervisor speaks {ours}", "use the memdash that started the run"
        if hello.run_id != self._owner.run_id:
            return f"this is run {self._owner.run_id}, not {hello.run_id}", "`memdash ls` shows the runs"
        if hello.role == "rank" and hello.attempt != self._owner.attempt:
            return f"attempt {hello.attempt} is over; this is attempt {self._owner.attempt}", ""
        return None

    def _refuse(self, reason: str, hint: str) -> None:
        self.write(wire.encode(wire.Refused(reason=reason, hint=hint)))
        self._drop(f"refused pid {self._peer_pid}: {reason}")

    def _drop(self, reason: str) -> None:
        self._owner.intruded(reason)
        self._transport.close()


def _no_recording(command: wire.PlaybackCommand) -> wire.CommandResult:
    text = "this is the run itself, not a recording of it: memdash replay plays recordings"
    return wire.CommandResult(command_id=command.command_id, command=type(command).__name__, ok=False, text=text)


def _ring(pid: int, hello: wire.Hello) -> RingReader | None:
    """The memory that a rank writes its samples to; None when it has none, or this system shows us none of others."""
    if hello.role != "rank" or hello.samples_fd is None:
        return None
    try:
        return RingReader.of(pid, hello.samples_fd, hello.rank)
    except (OSError, MemdashError):
        return None


def _peer(transport: asyncio.Transport) -> tuple[int, int]:
    """Pid and uid of the other side, from the kernel."""
    connection = transport.get_extra_info("socket")
    if hasattr(socket, "SO_PEERCRED"):
        pid, uid, _gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return pid, uid
    return 0, os.getuid()  # no such call on this system: the 0700 directory is the guard


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)

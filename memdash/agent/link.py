"""The rank's connection to its supervisor: a bounded outbox that never blocks a step, and a thread that reads commands.

The training thread calls `put`; it appends and tries one non-blocking send. Everything that could wait (connecting,
reading, draining a full socket) happens in the link's own thread. Samples do not come this way but through a ring that
the supervisor looks into; for one that cannot, the thread takes them from there and sends them.

What was sent may lie unread in the socket of a supervisor that is killed. So the newest frames are kept, and a supervisor
says in its Welcome up to when it has heard this rank; what came after that is sent again.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from heapq import merge
from typing import Generic, NamedTuple, TypeVar

from memdash import wire
from memdash.errors import MalformedMessage
from memdash.ring import RingReader

MAX_SAMPLES = 4096  # about 2 MiB: at 10 steps/s, seven minutes without a supervisor
MAX_EVENTS = 16384  # events are rare; only a run that is lost in a loop could reach this
RETRY_S = 0.5  # a connection that fails costs some microseconds; a goodbye that waits two seconds must find a new one
SEND_BUFFER_BYTES = 1 << 20
PUMP_S = 0.1  # how often samples are sent to a supervisor that cannot look into the ring
KEPT_BYTES = 2 * SEND_BUFFER_BYTES  # the kernel doubles what it is asked for; more cannot lie unread in the socket

T = TypeVar("T")


class Frame(NamedTuple):
    """A message's bytes, and when it came to be; 0 for an Ack, which no other supervisor waits for."""

    data: bytes
    time_s: float


class Outbox(Generic[T]):
    """Frames waiting to be sent, in order. When full the oldest *sample* goes and is counted; events stay."""

    def __init__(self, max_samples: int = MAX_SAMPLES, max_events: int = MAX_EVENTS) -> None:
        self._samples: deque[tuple[int, T]] = deque()
        self._events: deque[tuple[int, T]] = deque()
        self._max_samples, self._max_events = max_samples, max_events
        self._count = 0
        self.dropped_samples = 0
        self.dropped_events = 0

    def __len__(self) -> int:
        return len(self._samples) + len(self._events)

    def __iter__(self) -> Iterator[T]:
        """Every frame, the oldest first."""
        return (frame for _, frame in merge(self._samples, self._events, key=lambda item: item[0]))

    def put(self, frame: T, *, sample: bool) -> None:
        """Append a frame; drop the oldest of its kind when there are too many."""
        self._count += 1
        box, most = (self._samples, self._max_samples) if sample else (self._events, self._max_events)
        if len(box) >= most:
            box.popleft()
            if sample:
                self.dropped_samples += 1
            else:
                self.dropped_events += 1
        box.append((self._count, frame))

    def pop(self) -> T | None:
        """The oldest frame, or None."""
        if not self._samples and not self._events:
            return None
        first_sample = self._samples[0][0] if self._samples else self._count + 1
        first_event = self._events[0][0] if self._events else self._count + 1
        return (self._samples if first_sample < first_event else self._events).popleft()[1]


class Link:
    """One unix-socket connection that is made again whenever it breaks; `greeting()` opens each one."""

    def __init__(
        self, socket_path: str, greeting: Callable[[], list[wire.Message]], ring: RingReader | None = None
    ) -> None:
        self._path = socket_path
        self._greeting = greeting
        self._ring = ring
        self._pumps = False
        """Whether the supervisor wants the ring's samples sent."""
        self.commands: queue.SimpleQueue[wire.Command] = queue.SimpleQueue()
        self._outbox: Outbox[Frame] = Outbox()
        self._sent: deque[Frame] = deque()
        self._sent_bytes = 0
        self._again: deque[Frame] = deque()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._welcomed = False
        self._unsent = b""  # what is left of the greeting, or of the frame being sent
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._closing = False
        self._refused = ""
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="memdash-link", daemon=True)

    @property
    def dropped_samples(self) -> int:
        """Samples given up so far because nobody took them."""
        return self._outbox.dropped_samples

    @property
    def refused(self) -> str:
        """Why the supervisor turned this rank away; empty when it did not."""
        return self._refused

    def start(self) -> None:
        """Start connecting; returns at once. Later calls do nothing."""
        if self._thread.ident is None:
            self._thread.start()

    def put(self, message: wire.Message, *, sample: bool = False) -> None:
        """Send when possible. Never blocks, never raises: what cannot be sent now is kept or, for samples, dropped."""
        if os.getpid() != self._pid:  # a forked DataLoader worker has no link
            return
        frame = Frame(wire.encode(message), getattr(message, "time_s", 0.0))
        with self._lock:
            self._pump()  # what came before it goes before it
            self._outbox.put(frame, sample=sample)
            waiting = not self._flush()
        if waiting:
            self._wake()

    def unheard(self) -> list[bytes]:
        """What would open the next connection: a greeting, what may not have been read, and what waits."""
        with self._lock:
            frames = [frame for frame in (*self._sent, *self._outbox) if frame.time_s]
            frames += [frame for frame, _ in self._from_ring()]
        frames.sort(key=lambda frame: frame.time_s)
        return [*map(wire.encode, self._greeting()), *(frame.data for frame in frames)]

    def close(self, timeout_s: float = 2.0) -> None:
        """Give the last frames `timeout_s` to leave, then end the thread."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._thread.is_alive():
            with self._lock:
                self._pump()
                self._flush()
                if not (self._unsent or self._again or self._outbox):
                    break
            self._thread.join(0.01)
        self._closing = True
        self._wake()
        self._thread.join(max(0.1, deadline - time.monotonic()))

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b".")

    # ---- in the link's thread ----

    def _run(self) -> None:
        while not self._closing:
            connection = self._connect()
            if connection is None:
                self._sleep(RETRY_S)
                continue
            try:
                self._serve(connection)
            except (OSError, MalformedMessage):
                pass  # the supervisor went away or is not ours: connect again
            finally:
                with self._lock:
                    self._socket = None
                connection.close()
            if self._refused:
                return
            self._sleep(RETRY_S)

    def _connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        connection.setblocking(False)
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            return None
        with self._lock:
            self._socket, self._welcomed = connection, False
            self._unsent = b"".join(wire.encode(message) for message in self._greeting())
            self._flush()
        return connection

    def _serve(self, connection: socket.socket) -> None:
        frames = wire.FrameBuffer()
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        while not self._closing:
            with self._lock:
                self._pump()
                drained = self._flush()
                if self._socket is None:
                    return
            poll.register(connection, select.POLLIN | (0 if drained else select.POLLOUT))
            for descriptor, _event in poll.poll(PUMP_S * 1000 if self._pumps else None):
                if descriptor == self._wake_read:
                    os.read(self._wake_read, 4096)
                elif not self._read(connection, frames):
                    return

    def _read(self, connection: socket.socket, frames: wire.FrameBuffer) -> bool:
        """Take what is there; False at the end of the stream."""
        try:
            data = connection.recv(1 << 16)
        except BlockingIOError:
            return True
        for frame in frames.feed(data):
            message = wire.decode(wire.to_rank, frame)
            if isinstance(message, wire.Refused):
                self._refused = message.reason
            elif isinstance(message, wire.Welcome):
                self._welcome(message)
            else:
                self.commands.put(message)
        return bool(data)

    def _welcome(self, welcome: wire.Welcome) -> None:
        """From here on frames may go, first those that no supervisor has heard yet."""
        with self._lock:
            self._again = deque(frame for frame in self._sent if frame.time_s > welcome.heard_s)
            self._welcomed, self._pumps = True, self._ring is not None and not welcome.reads_ring

    def _pump(self) -> None:
        """Samples into the outbox, for a supervisor that cannot look at them. The lock is held."""
        if self._pumps and self._ring is not None:
            for frame, number in self._from_ring():
                self._outbox.put(frame, sample=True)
                self._ring.done(number)

    def _from_ring(self) -> list[tuple[Frame, int]]:
        """The samples that nobody has read, with their numbers."""
        samples = self._ring.take() if self._ring is not None else []
        return [(Frame(wire.encode(sample), sample.time_s), sample.seq) for sample in samples]

    def _flush(self) -> bool:
        """Send until the socket is full; True when nothing waits that may go. The lock is held."""
        while self._socket is not None:
            if not self._unsent:
                frame = self._next() if self._welcomed else None
                if frame is None:
                    return True
                self._unsent = frame.data
            try:
                sent = self._socket.send(self._unsent)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                self._socket = None  # the thread sees the same end and connects again
                return False
            self._unsent = self._unsent[sent:]
        return False

    def _next(self) -> Frame | None:
        """The frame to send now, which is kept for the case that nobody reads it."""
        if self._again:
            return self._again.popleft()
        frame = self._outbox.pop()
        if frame is not None and frame.time_s:
            self._sent.append(frame)
            self._sent_bytes += len(frame.data)
            while self._sent_bytes > KEPT_BYTES:
                self._sent_bytes -= len(self._sent.popleft().data)
        return frame

    def _sleep(self, seconds: float) -> None:
        """Wait, but not longer than until close()."""
        deadline = time.monotonic() + seconds
        while not self._closing and (left := deadline - time.monotonic()) > 0:
            if select.select([self._wake_read], [], [], left)[0]:
                os.read(self._wake_read, 4096)

"""Sends to every dashboard and waits for none: what a slow one cannot take is dropped and made up for later."""

from __future__ import annotations

import asyncio

from memdash import wire

SLOW_BYTES = 1 << 20  # unsent to one dashboard: from here on its samples are dropped
HISTORY_BYTES = SLOW_BYTES // 2  # of history: what is live still finds room
TOO_SLOW_BYTES = 8 << 20  # of events alone: it is not reading at all
MAX_VIEWERS = 128


class Viewer:
    """One dashboard's connection."""

    def __init__(self, transport: asyncio.Transport, peer_pid: int) -> None:
        self.transport = transport
        self.peer_pid = peer_pid
        self.dropped = 0
        """Samples it did not get since it was last backfilled."""
        self.room = asyncio.Event()
        """Set while more history can be sent, and when the dashboard is gone."""
        self.room.set()

    @property
    def unsent_bytes(self) -> int:
        """What the socket has not taken yet."""
        return self.transport.get_write_buffer_size()

    def send(self, frame: bytes, *, sample: bool = False) -> None:
        """Queue one frame; drop it when the dashboard is slow and the frame is a sample; hang up when it is dead."""
        if self.transport.is_closing():
            return
        if sample and self.unsent_bytes > SLOW_BYTES:
            self.dropped += 1
        elif self.unsent_bytes > TOO_SLOW_BYTES:
            self.transport.abort()
        else:
            self.transport.write(frame)


class Fanout:
    """All dashboards."""

    def __init__(self) -> None:
        self.viewers: set[Viewer] = set()

    def add(self, viewer: Viewer) -> None:
        """Let a dashboard take part."""
        self.viewers.add(viewer)

    def remove(self, viewer: Viewer) -> None:
        """A dashboard has left."""
        self.viewers.discard(viewer)

    def send(self, message: wire.Message, *, sample: bool = False) -> None:
        """Send to all; encoded once."""
        if self.viewers:
            frame = wire.encode(message)
            for viewer in list(self.viewers):
                viewer.send(frame, sample=sample)

    def recovered(self) -> list[Viewer]:
        """Dashboards that missed samples and can take them now."""
        return [viewer for viewer in self.viewers if viewer.dropped and viewer.unsent_bytes < SLOW_BYTES // 4]

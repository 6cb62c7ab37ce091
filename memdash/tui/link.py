"""Keeps a dashboard connected: reads into the inbox, and tries again when the supervisor is lost.

Runs as one task on the dashboard's loop; it never touches a widget.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

from memdash import wire
from memdash.errors import LinkError, MemdashError, VersionMismatch, WireError
from memdash.tui.messages import Connected, ConnectionLost, ConnectionRefused, TelemetryArrived

if TYPE_CHECKING:
    from textual.message import Message

FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 5.0
FIRST_CONNECT_TRIES = 6  # about ten seconds: `memdash run` attaches while its supervisor is still starting
YIELD_EVERY = 200  # a full socket is read without ever waiting, and the screen wants its turn


class ClientLike(Protocol):
    """What a dashboard needs of a connection; memdash.client.Client is one, and the player of a recording."""

    def messages(self) -> AsyncIterator[wire.FromSupervisor]:
        """Every message until the connection closes."""
        ...

    def send(self, command: wire.Command | wire.PlaybackCommand) -> None:
        """Ask for a command."""
        ...

    async def close(self) -> None:
        """Leave."""
        ...


Connect = Callable[[], Awaitable[ClientLike]]


def retry_delay_s(attempt: int) -> float:
    """Doubling, up to a bound: 0.5, 1, 2, 4, 5, 5 ..."""
    return min(LONGEST_RETRY_S, FIRST_RETRY_S * 2.0 ** min(attempt, 10))


class Link:
    """The connection of one dashboard."""

    def __init__(self, connect: Connect, post: Callable[[Message], object], is_over: Callable[[], bool]) -> None:
        self._connect = connect
        self._post = post
        self._is_over = is_over
        self._client: ClientLike | None = None
        self.inbox: deque[wire.FromSupervisor] = deque()

    @property
    def connected(self) -> bool:
        """Whether commands can be sent."""
        return self._client is not None

    def send(self, command: wire.Command | wire.PlaybackCommand) -> None:
        """Ask for a command. Raises LinkError when there is no connection."""
        if self._client is None:
            raise LinkError("the supervisor is not connected", hint="the dashboard keeps trying")
        try:
            self._client.send(command)
        except OSError as error:
            raise LinkError(f"the supervisor is gone: {error}", hint="the dashboard keeps trying") from None

    async def run(self) -> None:
        """Connect, read until the end, and again, until the run is over or connecting is hopeless."""
        attempt, ever = 0, False
        while True:
            reason = "the supervisor closed the connection"
            try:
                self._client = await self._connect()
                self._post(Connected(again=ever))
                attempt, ever = 0, True
                await self._read(self._client)
            except VersionMismatch as error:
                self._post(ConnectionRefused(error))
                return
            except (LinkError, WireError, OSError) as error:
                if not ever and isinstance(error, MemdashError) and attempt + 1 >= FIRST_CONNECT_TRIES:
                    self._post(ConnectionRefused(error))
                    return
                reason = str(error)
            finally:
                await self.close()
            if self._is_over():
                return
            delay_s = retry_delay_s(attempt)
            attempt += 1
            self._post(ConnectionLost(reason, attempt, delay_s))
            await asyncio.sleep(delay_s)

    async def _read(self, client: ClientLike) -> None:
        count = 0
        async for message in client.messages():
            self.inbox.append(message)
            self._post(TelemetryArrived())
            count += 1
            if count % YIELD_EVERY == 0:
                await asyncio.sleep(0)

    async def close(self) -> None:
        """Leave; the run goes on."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

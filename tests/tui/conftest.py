"""A dashboard on a client that says what a test tells it to; no socket, no process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from memdash import wire
from memdash.tui import plotting
from memdash.tui.app import Dashboard
from tests.tui import scenes

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from memdash.tui.app import DashboardExit

os.environ.pop("NO_COLOR", None)  # it turns every colour of a snapshot to grey
NOW = scenes.T0 + 120.0


class FakeClient:
    """Hands out what is put in, keeps what is sent."""

    def __init__(self, *messages: wire.FromSupervisor) -> None:
        self._queue: asyncio.Queue[wire.FromSupervisor | None] = asyncio.Queue()
        self.sent: list[wire.Command] = []
        self.closed = False
        self.say(*messages)

    def say(self, *messages: wire.FromSupervisor) -> None:
        """The supervisor says something."""
        for message in messages:
            self._queue.put_nowait(message)

    def hang_up(self) -> None:
        """The supervisor goes away."""
        self._queue.put_nowait(None)

    async def messages(self) -> AsyncIterator[wire.FromSupervisor]:
        """What was put in, until the other side hangs up."""
        while (message := await self._queue.get()) is not None:
            yield message

    def send(self, command: wire.Command) -> None:
        """Keep it."""
        self.sent.append(command)

    async def close(self) -> None:
        """The dashboard leaves."""
        self.closed = True


def dashboard_on(*clients: FakeClient) -> Dashboard:
    """A dashboard whose every connection is the next of these clients; after the last nobody answers."""
    waiting = list(clients)

    async def connect() -> FakeClient:
        if not waiting:
            from memdash.errors import SupervisorNotRunning

            raise SupervisorNotRunning("no supervisor answers")
        return waiting.pop(0)

    return Dashboard(connect, clock=lambda: NOW)


@pytest.fixture(autouse=True, scope="session")
def _plotext() -> None:
    """Imported once, so that no test waits for it."""
    plotting.load()


Until = Callable[[Callable[[], object]], Awaitable[None]]


async def until(predicate: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait for something to become true, and fail when it does not."""
    async with asyncio.timeout(timeout_s):
        while not predicate():  # noqa: ASYNC110 - any predicate will do
            await asyncio.sleep(0.01)


async def told(app: Dashboard, pilot: Pilot[DashboardExit], client: FakeClient, *says: wire.FromSupervisor) -> None:
    """The supervisor says something, and the dashboard has drawn it."""
    client.say(*says)
    await until(lambda: client._queue.empty() and not app.link.inbox)
    await pilot.pause()
    app.draw()
    await pilot.pause()


def screen_text(app: Dashboard) -> list[str]:
    """What a person sees, line by line."""
    return ["".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips()]

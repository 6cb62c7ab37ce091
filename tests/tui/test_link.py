"""The connection that looks after itself: bounded delays, no spinning, no wait for whoever is gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from memdash import wire
from memdash.errors import LinkError, MalformedMessage, SupervisorNotRunning
from memdash.tui import messages
from memdash.tui.link import LONGEST_RETRY_S, Link, retry_delay_s
from tests.tui import scenes
from tests.tui.conftest import FakeClient, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from textual.message import Message


class Sleeps:
    """Stands in for asyncio.sleep: remembers, and only lets others run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.slept: list[float] = []
        self._sleep = asyncio.sleep
        monkeypatch.setattr("memdash.tui.link.asyncio.sleep", self)

    async def __call__(self, delay_s: float) -> None:
        """No time passes."""
        self.slept.append(delay_s)
        await self._sleep(0)


def test_delays_double_up_to_a_bound() -> None:
    assert [retry_delay_s(attempt) for attempt in (0, 1, 2, 3, 4, 1_000_000)] == [0.5, 1, 2, 4, LONGEST_RETRY_S, 5]


async def test_it_tries_again_for_as_long_as_somebody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps = Sleeps(monkeypatch)
    first = FakeClient(scenes.state())
    first.hang_up()
    tries = 0

    async def connect() -> FakeClient:
        nonlocal tries
        tries += 1
        if tries == 1:
            return first
        raise SupervisorNotRunning("gone")

    posted: list[Message] = []
    link = Link(connect, posted.append, lambda: tries > 50)
    await link.run()
    assert sleeps.slept[:6] == [0.5, 1, 2, 4, 5, 5]
    assert len(sleeps.slept) == 50
    assert [type(message) for message in posted[:3]] == [
        messages.Connected,
        messages.TelemetryArrived,
        messages.ConnectionLost,
    ]


async def test_nonsense_from_the_supervisor_is_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    Sleeps(monkeypatch)

    class Mad(FakeClient):
        async def messages(self) -> AsyncIterator[wire.FromSupervisor]:
            raise MalformedMessage("not a message of ours")
            yield scenes.state()

    clients = [Mad(), Mad()]

    async def connect() -> FakeClient:
        return clients.pop(0)

    posted: list[Message] = []
    await Link(connect, posted.append, lambda: not clients).run()
    lost = [message for message in posted if isinstance(message, messages.ConnectionLost)]
    assert [message.reason for message in lost] == ["not a message of ours"]


async def test_a_flood_leaves_room_for_others() -> None:
    client = FakeClient(*[scenes.host_sample(1, 2.0)] * 5000)
    turns = 0

    async def connect() -> FakeClient:
        return client

    async def other() -> None:
        nonlocal turns
        while len(link.inbox) < 5000:
            turns += 1
            await asyncio.sleep(0)

    link = Link(connect, lambda _: None, lambda: False)
    task = asyncio.create_task(link.run())
    await other()
    task.cancel()
    assert turns >= 20


async def test_a_command_without_a_connection_is_an_error_with_a_hint() -> None:
    async def connect() -> FakeClient:
        return FakeClient()

    link = Link(connect, lambda _: None, lambda: False)
    with pytest.raises(LinkError) as caught:
        link.send(wire.Pause(command_id="x"))
    assert caught.value.hint
    task = asyncio.create_task(link.run())
    await until(lambda: link.connected)
    link.send(wire.Pause(command_id="x"))
    task.cancel()

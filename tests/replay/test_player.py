"""A player is a connection: it tells what is recorded as time goes by, and obeys at once."""

from __future__ import annotations

import asyncio

import pytest

from memdash import wire
from memdash.replay.player import Player
from memdash.replay.playhead import Playhead
from memdash.replay.timeline import Timeline
from tests.replay.conftest import SECONDS, T0


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


class Listener:
    """A dashboard that hears update by update; the clock goes on by `beat_s` with each."""

    def __init__(self, timeline: Timeline, **head: object) -> None:
        self.clock = Clock()
        whole = Playhead(timeline.start_s, timeline.end_s, timeline.start_s)
        self.player = Player(
            timeline, whole.sought(T0 + 20).at_speed(**{"speed": 10, "playing": True, **head}), self.clock
        )
        self._messages = self.player.messages()
        self._waiting: wire.FromSupervisor | None = None

    async def hear(self, beat_s: float = 0.1) -> list[wire.FromSupervisor]:
        """One update, however it is told."""
        self.clock.now_s += beat_s
        heard: list[wire.FromSupervisor] = []
        async with asyncio.timeout(10):
            async for message in self._messages:
                heard.append(message)
                ends = wire.Backfilled if isinstance(heard[0], wire.Playback) and heard[0].anew else wire.Playback
                if isinstance(message, ends):
                    break
        return heard

    def ask(self, command: wire.Command | wire.PlaybackCommand) -> None:
        self.player.send(command)


@pytest.fixture
async def listen(recorded):
    timeline = Timeline(recorded.directory)
    listeners: list[Listener] = []

    def connect(**head: object) -> Listener:
        listeners.append(Listener(timeline, **head))
        return listeners[-1]

    yield connect
    for listener in listeners:
        await listener.player.close()
    timeline.close()


def where(heard: list[wire.FromSupervisor]) -> tuple[float, bool, bool]:
    (playback,) = [message for message in heard if isinstance(message, wire.Playback)]
    return round(playback.time_s - T0, 3), playback.playing, playback.anew


def seek(seconds: float) -> wire.Seek:
    return wire.Seek(command_id="s", time_s=T0 + seconds)


async def test_first_all_that_was_and_then_what_comes(listen):
    listener = listen()
    first = await listener.hear()
    assert where(first) == (20.0, True, True)
    assert isinstance(first[1], wire.RunState)
    second = await listener.hear()
    assert where(second) == (21.0, True, False)
    steps = [message.time_s - T0 for message in second if isinstance(message, wire.StepReport)]
    assert steps == [20.5, 21.0]


async def test_held_it_says_nothing_until_it_is_asked(listen):
    listener = listen(playing=False)
    await listener.hear()
    later = asyncio.ensure_future(listener.hear(beat_s=1000))
    await asyncio.wait({later}, timeout=0.5)
    assert not later.done()
    listener.ask(wire.SetSpeed(command_id="s", speed=5, playing=True))
    listener.clock.now_s += 0.1
    assert where(await later) == (20.5, True, False)  # the time that it was held has not passed


async def test_seeking(listen):
    listener = listen(playing=False)
    await listener.hear()
    for seconds in (30, 31, 99, 50):  # a held key: only the last one is told
        listener.ask(seek(seconds))
    heard = await listener.hear()
    assert where(heard) == (50.0, False, True)
    assert all(message.time_s <= T0 + 50 for message in heard if isinstance(message, wire.JournalEntry))
    listener.ask(seek(1e9))
    assert where(await listener.hear()) == (SECONDS, False, True)
    listener.ask(seek(-1e9))
    assert where(await listener.hear()) == (0.0, False, True)


async def test_the_end_and_once_more(listen):
    listener = listen(speed=1000)
    await listener.hear()
    heard = await listener.hear()
    assert where(heard) == (SECONDS, False, False)
    assert [message.status for message in heard if isinstance(message, wire.RunState)] == ["finished"]
    listener.ask(wire.SetSpeed(command_id="s", speed=1000, playing=True))
    assert where(await listener.hear()) == (0.0, True, True)


async def test_however_fast_there_are_few_messages(listen):
    listener = listen(speed=500)
    await listener.hear()
    heard = await listener.hear()
    assert where(heard)[0] == 70.0
    assert len(heard) < 40  # of 200 rows
    assert any(isinstance(message, wire.SeriesHistory) for message in heard)


async def test_the_run_itself_cannot_be_asked(listen):
    listener = listen()
    await listener.hear()
    listener.ask(wire.Pause(command_id="p"))
    answers = [message for message in await listener.hear() if isinstance(message, wire.CommandResult)]
    assert [(answer.command_id, answer.ok, answer.text) for answer in answers] == [("p", False, "this is a recording")]


async def test_it_ends_when_the_dashboard_leaves(listen):
    listener = listen(playing=False)
    await listener.hear()
    rest = asyncio.ensure_future(listener.hear())
    await listener.player.close()
    assert await asyncio.wait_for(rest, 10) == []

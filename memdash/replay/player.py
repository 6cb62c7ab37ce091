"""Plays a timeline to one dashboard, which takes it for a supervisor. Runs on the dashboard's loop; the clock is here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator

from memdash import wire
from memdash.replay.playhead import Playhead
from memdash.replay.timeline import Timeline

UPDATE_S = 0.1  # however fast it plays, and however fast somebody seeks


class Player:
    """What a dashboard needs of a connection."""

    def __init__(self, timeline: Timeline, head: Playhead, clock: Callable[[], float] = time.monotonic) -> None:
        self._timeline = timeline
        self._head = head
        self._clock = clock
        self._looked_s = clock()
        self._marks = timeline.marks
        self._anew = True
        """Whether the dashboard has to forget what it was told."""
        self._answers: list[wire.CommandResult] = []
        self._asked = asyncio.Event()
        self._closed = False

    async def messages(self) -> AsyncIterator[wire.FromSupervisor]:
        """What is recorded, as time goes by, until the dashboard leaves."""
        while not self._closed:
            for message in self._update():
                yield message
            await asyncio.sleep(UPDATE_S)
            if not self._head.playing:
                await self._asked.wait()
            self._asked.clear()

    def send(self, command: wire.Command | wire.PlaybackCommand) -> None:
        """Obey at the next update; nothing can be asked of the run itself."""
        before = self._head
        self._looked_s = self._clock()  # what was held until now has not gone on meanwhile
        if isinstance(command, wire.Seek):
            self._head, self._anew = before.sought(command.time_s), True
        elif isinstance(command, wire.SetSpeed):
            self._head = before.at_speed(command.speed, playing=command.playing)
            self._anew |= self._head.time_s != before.time_s
        else:
            name = type(command).__name__
            answer = wire.CommandResult(
                command_id=command.command_id, command=name, ok=False, text="this is a recording"
            )
            self._answers.append(answer)
        self._asked.set()

    async def close(self) -> None:
        """The dashboard has left."""
        self._closed = True
        self._asked.set()

    def _update(self) -> Iterator[wire.FromSupervisor]:
        """What has changed since the last one."""
        now_s = self._clock()
        elapsed_s, self._looked_s = now_s - self._looked_s, now_s
        answers, self._answers = self._answers, []
        yield from answers
        if self._anew:
            self._anew = False
            yield self._playback(anew=True)
            yield from self._timeline.everything(self._head.time_s)
        else:
            before = self._head
            self._head = before.after(elapsed_s, self._timeline.next_s)
            if self._head.time_s > before.time_s:
                yield from self._timeline.between(before.time_s, self._head.time_s)
            yield self._playback()

    def _playback(self, *, anew: bool = False) -> wire.Playback:
        head = self._head
        return wire.Playback(
            time_s=head.time_s,
            start_s=head.start_s,
            end_s=head.end_s,
            speed=head.speed,
            playing=head.playing,
            marks=self._marks,
            anew=anew,
        )

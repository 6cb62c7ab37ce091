"""The kernel's alarm wakes the supervisor between two beats; where there is none, nothing happens."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from memdash.host.pressure import PressureTrigger, told_of
from memdash.supervisor.alarm import PressureAlarm

FILE = Path("memory.pressure")


class FakeTrigger(PressureTrigger):
    """A socket's urgent byte is priority data, as the kernel's alarm is."""

    def __init__(self, path: Path) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.kernel = socket.create_connection(listener.getsockname())
        self.ours, _ = listener.accept()
        listener.close()
        self.gone = False
        self._file = self.ours.detach()
        self._poll = told_of(self._file)

    def ring(self) -> None:
        self.kernel.send(b"!", socket.MSG_OOB)

    def look(self) -> None:
        """The kernel's own is over once it was told; a socket's stays until it is read."""
        if self.gone:
            raise OSError("the cgroup has gone")
        with socket.socket(fileno=self._file) as ours:
            ours.recv(1, socket.MSG_OOB)
            self._file = ours.detach()

    def close(self) -> None:
        super().close()
        self.kernel.close()


class Listener:
    def __init__(self, make: type[PressureTrigger] = FakeTrigger) -> None:
        self.made: list[FakeTrigger] = []
        self.rung = asyncio.Queue[None]()
        self.alarm = PressureAlarm(lambda: self.rung.put_nowait(None), lambda path: self.keep(make(path)))

    def keep(self, trigger: PressureTrigger) -> PressureTrigger:
        assert isinstance(trigger, FakeTrigger)
        self.made.append(trigger)
        return trigger


async def test_each_alarm_rings_once():
    listener = Listener()
    listener.alarm.follow(FILE)
    listener.alarm.follow(FILE)  # at every slow beat
    assert len(listener.made) == 1
    for _ in range(2):
        listener.made[0].ring()
        await asyncio.wait_for(listener.rung.get(), 20)
    await asyncio.sleep(0)
    assert listener.rung.empty()
    listener.alarm.close()


async def test_another_attempt_has_another_file_and_none_when_nothing_runs():
    listener = Listener()
    listener.alarm.follow(FILE)
    listener.alarm.follow(Path("another"))
    assert len(listener.made) == 2
    listener.made[1].ring()
    await asyncio.wait_for(listener.rung.get(), 20)
    listener.alarm.follow(None)
    listener.alarm.close()


async def test_a_cgroup_that_has_gone_rings_no_more(monkeypatch):
    listener, closed = Listener(), asyncio.Event()
    close = listener.alarm.close
    monkeypatch.setattr(listener.alarm, "close", lambda: (close(), closed.set()))
    listener.alarm.follow(FILE)
    listener.made[0].gone = True
    listener.made[0].ring()
    await asyncio.wait_for(closed.wait(), 20)
    assert listener.rung.empty()
    listener.alarm.follow(FILE)  # the next slow beat
    assert len(listener.made) == 1


@pytest.mark.parametrize("error", [PermissionError(13, "no"), OSError(22, "window"), AttributeError("no epoll here")])
async def test_where_the_kernel_takes_no_trigger_nothing_happens(error):
    tries = []

    def refuse(path: Path) -> PressureTrigger:
        tries.append(path)
        raise error

    alarm = PressureAlarm(lambda: pytest.fail("there is nothing that could ring"), refuse)
    for _ in range(3):
        alarm.follow(FILE)
    assert tries == [FILE]  # not again at every beat
    alarm.close()

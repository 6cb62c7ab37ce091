"""How much time processes lose waiting for memory: the kernel's pressure stall information (PSI)."""

from __future__ import annotations

import os
import re
import select
from dataclasses import dataclass
from pathlib import Path

from memdash.host import kept
from memdash.host.capacity import CgroupLevel

_TOTAL = re.compile(rb"^(some|full) .*total=(\d+)", re.MULTILINE)
MICROSECONDS = 1_000_000
TRIGGER = b"some 150000 2000000\0"
"""150 ms of waiting within 2 s; without privileges the kernel takes only windows of whole multiples of 2 s."""


@dataclass(frozen=True)
class Stalled:
    """Share of the time since the reading before, from 0 to 1."""

    some: float
    """At least one process waited for memory."""
    full: float
    """All of them did: nothing was computed."""


class Pressure:
    """Reads running totals, which show a stall at once where the kernel's averages need ten seconds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before: tuple[float, dict[str, int]] | None = None

    def read(self, now_s: float) -> Stalled | None:
        """Since the last call; None at the first one and where the kernel does not tell."""
        try:
            totals = {name.decode(): int(total) for name, total in _TOTAL.findall(kept.read(self._path))}
        except OSError:
            return None
        before, self._before = self._before, (now_s, totals)
        if before is None or now_s <= before[0] or not totals.keys() <= before[1].keys():
            return None
        span = (now_s - before[0]) * MICROSECONDS

        def share(name: str) -> float:
            return min(1.0, max(0.0, (totals.get(name, 0) - before[1].get(name, 0)) / span))

        return Stalled(share("some"), share("full"))


def pressure_file(levels: list[CgroupLevel], root: Path = Path("/")) -> Path:
    """The leaf cgroup's own file where it has one (v2), else the machine's."""
    own = [level.path / "memory.pressure" for level in levels if level.version == 2]
    return next((path for path in own if path.exists()), root / "proc/pressure/memory")


class PressureTrigger:
    """The kernel's own alarm: `fileno` gets readable as soon as processes have waited for memory too long."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where the kernel does not take one."""
        self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(self._file, TRIGGER)
            self._poll = told_of(self._file)
        except OSError:
            os.close(self._file)
            raise

    def fileno(self) -> int:
        """For an event loop: this gets readable, the file itself only has priority data."""
        return self._poll.fileno()

    def look(self) -> None:
        """When it was readable: that was the alarm, at most one in a window. Raises OSError when the cgroup has gone.

        The kernel forgets an alarm as soon as anybody asks for it, and who waits for `fileno` has asked.
        """
        if any(event & select.EPOLLERR for _, event in self._poll.poll(0)):
            raise OSError("the cgroup has gone")

    def close(self) -> None:
        """Give it up."""
        self._poll.close()
        os.close(self._file)


def told_of(descriptor: int) -> select.epoll:
    """What gets readable when a descriptor has priority data. Raises OSError where it never can."""
    poll = select.epoll()
    try:
        poll.register(descriptor, select.EPOLLPRI)
    except OSError:
        poll.close()
        raise
    return poll

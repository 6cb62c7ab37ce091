"""How much time processes lose waiting for memory: the kernel's pressure stall information (PSI)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from memdash.host import kept
from memdash.host.capacity import CgroupLevel

_TOTAL = re.compile(rb"^(some|full) .*total=(\d+)", re.MULTILINE)
MICROSECONDS = 1_000_000


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

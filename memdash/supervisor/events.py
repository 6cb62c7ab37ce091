"""What happens to a run besides what its ranks say; each moves run_state.py (pure values)."""

from __future__ import annotations

from dataclasses import dataclass

from memdash import wire
from memdash.host.oom_kill import OomEvidence


@dataclass(frozen=True)
class RankExited:
    """A training process has ended and was waited for."""

    time_s: float
    exit_code: int | None
    """Negative for a signal; None when another process was its parent."""
    oom: OomEvidence = OomEvidence()
    """What the kernel tells of OOM kills since it was started."""
    pids: tuple[int, ...] = ()
    """It and its children, as they were last seen."""
    output: str = ""
    """The end of what it printed."""
    shm_peak_bytes: int = 0
    """The most that was seen in /dev/shm."""
    unseen: str = ""
    """Between when and when it ended, if no supervisor lived then."""


@dataclass(frozen=True)
class RankStarted:
    """A training process has been started."""

    time_s: float
    pid: int
    attempt: int = 0
    by_policy: bool = False
    """Whether the supervisor launched it by itself after a failure."""


@dataclass(frozen=True)
class LinkChanged:
    """A rank has connected, or its connection has ended."""

    linked: bool
    capabilities: dict[str, str] | None = None


@dataclass(frozen=True)
class NotHeardOf:
    """A program of the user's has run for a while without a memdash.Session: it is watched from outside."""


@dataclass(frozen=True)
class WallBudgetSpent:
    """This attempt has no time left but for a full checkpoint."""


@dataclass(frozen=True)
class StopDecided:
    """The supervisor itself is going to stop the run."""

    why: str


@dataclass(frozen=True)
class ForecastMade:
    """Where memory is heading, as far as can be told now."""

    forecast: wire.Forecast


@dataclass(frozen=True)
class CommandAccepted:
    """A command was valid and is on its way to the ranks."""

    command: wire.Command


@dataclass(frozen=True)
class CommandApplied:
    """Every rank has done what a command says."""

    command: wire.Command


@dataclass(frozen=True)
class CommandFailed:
    """A command was refused by a rank or not answered in time."""

    command: wire.Command

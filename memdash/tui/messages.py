"""UP: what the connection and the board tell the app. Data wait in the inbox; a message only says that they came."""

from __future__ import annotations

from dataclasses import dataclass

from textual.message import Message

from memdash import wire
from memdash.errors import MemdashError
from memdash.tui.danger import Danger


@dataclass
class TelemetryArrived(Message):
    """The inbox is not empty."""

    def can_replace(self, message: Message) -> bool:
        """A burst is one tick: the handler empties the inbox."""
        return isinstance(message, TelemetryArrived)


@dataclass
class Connected(Message):
    """A supervisor said welcome; all history follows."""

    again: bool
    """Whether the connection had been lost before."""


@dataclass
class ConnectionLost(Message):
    """The supervisor is gone; the next try is in `retry_in_s`."""

    reason: str
    attempt: int
    retry_in_s: float


@dataclass
class ConnectionRefused(Message):
    """Trying again would not help."""

    error: MemdashError


@dataclass
class CommandSent(Message):
    """A command is on its way."""

    command: wire.Command


@dataclass
class CommandAnswered(Message):
    """The supervisor has answered a command, of this dashboard or of another."""

    result: wire.CommandResult


@dataclass
class StatusChanged(Message):
    """The run is in another status."""

    status: str


@dataclass
class DangerEntered(Message):
    """Headroom fell below a level."""

    where: str
    """`host` or `device`."""
    level: Danger
    text: str


@dataclass
class RunEnded(Message):
    """The run has a final status."""

    state: wire.RunState

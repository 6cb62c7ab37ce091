"""What a scheduler asks of the command that it started, by signals: kept until a supervisor has answered."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memdash import wire
    from memdash.client import Client

WORDS = {
    signal.SIGTERM: "SIGTERM: stopping the run after a full checkpoint",
    signal.SIGUSR1: "SIGUSR1: saving a full checkpoint; the run goes on",
}


class Signals:
    """Heeds SIGTERM and SIGUSR1 from the moment it is made: one may come while the supervisor is being started."""

    def __init__(self) -> None:
        self._early: list[int] = []
        self._unanswered: dict[str, wire.Command] = {}
        self._client: Client | None = None
        self._stopping = False
        for number in WORDS:
            signal.signal(number, lambda got, _frame: self._early.append(got))

    @property
    def stopping(self) -> bool:
        """Whether SIGTERM has come."""
        return self._stopping or signal.SIGTERM in self._early

    def connected(self, client: Client) -> None:
        """Ask this supervisor from now on, and first for what nobody has answered."""
        loop = asyncio.get_running_loop()
        for number in WORDS:
            loop.add_signal_handler(number, self._take, number)
        for command in self._unanswered.values():
            client.send(command)
        self._client = client
        early, self._early = self._early, []
        for got in early:
            self._take(got)

    def disconnected(self) -> None:
        """Keep what comes until there is a supervisor again."""
        self._client = None

    def answered(self, result: wire.CommandResult) -> None:
        """Need not be asked again."""
        self._unanswered.pop(result.command_id, None)

    def _take(self, number: int) -> None:
        from memdash import wire
        from memdash.client import new_command_id

        print(WORDS[signal.Signals(number)], flush=True)
        self._stopping |= number == signal.SIGTERM
        command: wire.Command = wire.Stop(command_id=new_command_id(), save="full")
        if number == signal.SIGUSR1:
            command = wire.SaveCheckpoint(command_id=new_command_id(), kind="full", reason="signal")
        self._unanswered[command.command_id] = command
        if self._client is not None:
            self._client.send(command)

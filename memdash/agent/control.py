"""Commands as the training thread obeys them: at a step boundary, each answered with exactly one Ack."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from memdash import wire
from memdash.errors import MemdashError

if TYPE_CHECKING:
    from memdash.agent.session import Session

HEARTBEAT_S = 2.0  # how often a paused run shows its memory

Handler = Callable[[Any], str]
"""Does what a command says and returns what it did, in words; raises to refuse."""


class Control:
    """The commands this script can obey, and the pause loop."""

    def __init__(self, session: Session, commands: queue.SimpleQueue[wire.Command]) -> None:
        self._session = session
        self._commands = commands
        self._handlers: dict[type[wire.Message], Handler] = {}
        self._declined: dict[str, str] = {}
        self._release: Callable[[], str] | None = None
        self._restore: Callable[[], str] | None = None

    def handle(self, command: type[wire.Message], handler: Handler) -> None:
        """Offer a command; what is not offered is shown greyed out with the reason."""
        self._handlers[command] = handler

    def decline(self, command: type[wire.Message], reason: str) -> None:
        """Say why a command cannot be obeyed here."""
        self._declined[command.__name__] = reason

    def handle_release(self, release: Callable[[], str], restore: Callable[[], str]) -> None:
        """Offer pauses that give the device's memory to others."""
        self._release, self._restore = release, restore

    def capabilities(self) -> dict[str, str]:
        """As in Hello: every command by name, with the reason where this script cannot do it."""
        able = {wire.Pause, wire.Resume, wire.Stop, *self._handlers}
        offered = {command.__name__: command in able for command in wire.COMMANDS}
        offered["Release"] = self._release is not None
        return {
            name: "" if is_able else self._declined.get(name, f"this script does not offer {name}")
            for name, is_able in offered.items()
        }

    def request_stop(self, save: str) -> None:
        """Stop at the next boundary as if a Stop had come; safe in a signal handler."""
        self._commands.put(wire.Stop(command_id="", save=save))  # type: ignore[arg-type]

    def request_checkpoint(self, kind: wire.CheckpointKind) -> None:
        """Save at the next boundary as if a SaveCheckpoint had come; safe in a signal handler."""
        self._commands.put(wire.SaveCheckpoint(command_id="", kind=kind, reason="signal"))

    def at_boundary(self) -> bool:
        """Obey what has come, waiting here while paused; False when the run is to stop."""
        while not self._commands.empty():
            command = self._commands.get_nowait()
            if isinstance(command, wire.Pause):
                if not self._hold(command):
                    return False
            elif isinstance(command, wire.Resume):
                self._ack(command, result="was not paused")
            elif not self._obey(command):
                return False
        return True

    def _hold(self, pause: wire.Pause) -> bool:
        """Wait for Resume, obeying everything else meanwhile; False when a Stop came instead."""
        session = self._session
        released = ""
        if pause.depth == "release" and not (released := self._give_way(pause)):
            return True
        self._ack(pause, result=f"paused at step {session.step}" + (f"; {released}" if released else ""))
        waits_for_room = False
        with session.phase("paused"):
            while True:
                try:
                    command = self._commands.get(timeout=HEARTBEAT_S)
                except queue.Empty:
                    session.sample_memory()
                    if waits_for_room and not self._come_back():
                        return True
                    continue
                if isinstance(command, wire.Resume):
                    trouble = self._come_back() if released else ""
                    if trouble:
                        waits_for_room = True
                        self._ack(command, error=f"still paused, and goes on by itself once there is room: {trouble}")
                        continue
                    self._ack(command, result=f"resumed after step {session.step}")
                    return True
                if isinstance(command, wire.Pause):
                    waits_for_room = False
                    self._ack(command, result=f"already paused at step {session.step}")
                elif not self._obey(command):
                    return False

    def _give_way(self, pause: wire.Pause) -> str:
        """Give the device's memory back, and say what was given; empty when it cannot be, and the run goes on."""
        try:
            if self._release is None:
                raise MemdashError(self.capabilities()["Release"])
            return self._release()
        except (MemdashError, OSError, RuntimeError) as error:
            self._ack(pause, error=f"not paused: {error}")
            return ""

    def _come_back(self) -> str:
        """Take the device's memory again; why not, when it is not there, and then all is as it was."""
        assert self._restore is not None
        try:
            self._session.notice(self._restore())
        except (MemdashError, OSError, RuntimeError) as error:
            return str(error) or type(error).__name__
        return ""

    def _obey(self, command: wire.Command) -> bool:
        """Carry out one command and ack it; False when it was a Stop that succeeded."""
        try:
            if isinstance(command, wire.Stop):
                self._ack(command, result=self._save_before_stop(command))
                self._answer_the_rest()
                return False
            handler = self._handlers.get(type(command))
            if handler is None:
                raise MemdashError(self.capabilities()[type(command).__name__])
            self._ack(command, result=handler(command))
        except (MemdashError, OSError, RuntimeError, ValueError) as error:
            # Whatever a command meets, training goes on as it was.
            self._ack(command, error=f"{error}" or type(error).__name__)
        return True

    def _save_before_stop(self, stop: wire.Stop) -> str:
        where = f"stopped after step {self._session.step}"
        if stop.save == "none":
            return where
        save = self._handlers.get(wire.SaveCheckpoint)
        if save is None:
            return f"{where}; this script cannot save a checkpoint"
        try:
            saved = save(wire.SaveCheckpoint(command_id=stop.command_id, kind=stop.save, reason="stop"))
        except (MemdashError, OSError, RuntimeError, ValueError) as error:
            raise MemdashError(
                f"not stopped, because the {stop.save} checkpoint could not be saved: {error}"
            ) from error
        return f"{where}; {saved}"

    def _answer_the_rest(self) -> None:
        """What came beside a Stop, such as another one: a scheduler may signal every process of a job."""
        with contextlib.suppress(queue.Empty):
            while True:
                command = self._commands.get_nowait()
                if isinstance(command, wire.Stop):
                    self._ack(command, result=f"stopped after step {self._session.step}")
                else:
                    self._ack(command, error="the run was stopped")

    def _ack(self, command: wire.Command, *, result: str = "", error: str = "") -> None:
        session = self._session
        if not command.command_id:  # asked for by a signal, not over the wire
            if error:
                session.notice(error, level="error")
            return
        session.send(
            wire.Ack(
                command_id=command.command_id,
                rank=session.rank,
                applied_at_step=session.step,
                result=result,
                error=error,
            )
        )

"""A connection to a supervisor: subscribe to a run, request a command. Runs in a dashboard or a one-shot verb."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import AsyncIterator

from memdash import wire
from memdash.errors import CommandTimedOut, LinkLost, SupervisorNotRunning, VersionMismatch
from memdash.locations import socket_path

CONNECT_TIMEOUT_S = 5.0


class Client:
    """One connection; made by `connect`, used by one task at a time."""

    def __init__(self, run_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.run_id = run_id
        self._reader = reader
        self._writer = writer
        self._frames = wire.FrameBuffer()
        self._ready: list[wire.FromSupervisor] = []

    @classmethod
    async def connect(cls, run_id: str, *, follow: bool = True) -> Client:
        """Say hello to the run's supervisor. Raises SupervisorNotRunning, VersionMismatch or LinkLost."""
        path = socket_path(run_id)
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_unix_connection(path), CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError):
            raise SupervisorNotRunning(
                f"no supervisor answers for run {run_id}",
                hint=f"`memdash attach {run_id}` brings one back; `memdash ls` shows the runs",
            ) from None
        client = cls(run_id, reader, writer)
        hello = wire.Hello(
            role="viewer", protocol_version=wire.PROTOCOL_VERSION, run_id=run_id, pid=os.getpid(), follow=follow
        )
        client._writer.write(wire.encode(hello))
        try:
            await client._check_welcome()
        except BaseException:
            await client.close()
            raise
        return client

    async def _check_welcome(self) -> None:
        try:
            answer = await asyncio.wait_for(self.receive(), CONNECT_TIMEOUT_S)
        except TimeoutError:
            raise LinkLost(f"the supervisor of {self.run_id} does not answer") from None
        if isinstance(answer, wire.Refused):
            raise VersionMismatch(f"the supervisor of {self.run_id} refused: {answer.reason}", hint=answer.hint)
        if not isinstance(answer, wire.Welcome):
            raise LinkLost(f"the supervisor of {self.run_id} did not say welcome")

    async def receive(self) -> wire.FromSupervisor:
        """The next message. Raises LinkLost at the end of the stream."""
        while not self._ready:
            try:
                data = await self._reader.read(1 << 16)
            except OSError:
                data = b""
            if not data:
                raise LinkLost(f"the supervisor of {self.run_id} closed the connection")
            self._ready = [wire.decode(wire.from_supervisor, frame) for frame in self._frames.feed(data)]
        return self._ready.pop(0)

    async def messages(self) -> AsyncIterator[wire.FromSupervisor]:
        """Every message until the supervisor closes the connection."""
        while True:
            try:
                message = await self.receive()
            except LinkLost:
                return
            yield message

    def send(self, command: wire.Command | wire.PlaybackCommand) -> None:
        """Ask for a command; its CommandResult comes among the messages."""
        self._writer.write(wire.encode(command))

    async def request(self, command: wire.Command, *, timeout_s: float) -> wire.CommandResult:
        """Ask for a command and wait for its answer. Raises CommandTimedOut or LinkLost."""
        self.send(command)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    message = await self.receive()
                    if isinstance(message, wire.CommandResult) and message.command_id == command.command_id:
                        return message
        except TimeoutError:
            raise CommandTimedOut(f"no answer to {type(command).__name__} within {timeout_s:.0f} s") from None

    async def close(self) -> None:
        """Leave; the run goes on."""
        self._writer.close()
        try:
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            pass


def new_command_id() -> str:
    """An id for one command."""
    return uuid.uuid4().hex[:12]

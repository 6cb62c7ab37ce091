"""DOWN: a command is validated, journaled, sent to every rank, and answered once all have acked or time is up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from memdash import wire
from memdash.batching import BatchSplit
from memdash.supervisor.events import CommandAccepted, CommandApplied, CommandFailed
from memdash.supervisor.run_state import refusal
from memdash.supervisor.telemetry import Telemetry

ACK_TIMEOUT_S = 120.0  # a command waits for the end of a step; slower steps get ten of them
SAVE_TIMEOUT_S = 1800.0  # a full checkpoint of a large model to a network disk

Reply = Callable[[wire.CommandResult], None]


@dataclass
class Pending:
    """A command on its way."""

    command: wire.Command
    reply: Reply
    deadline_s: float
    waiting: set[int]
    """Ranks that have not acked."""
    acks: list[wire.Ack] = field(default_factory=list)


class Control:
    """Commands of all dashboards; `send` hands one to every rank and returns whom it reached."""

    def __init__(self, telemetry: Telemetry, send: Callable[[wire.Command], set[int]], terminate: Callable[[], None]):
        self._telemetry = telemetry
        self._send = send
        self._terminate = terminate
        self._pending: dict[str, Pending] = {}

    def submit(self, command: wire.Command, reply: Reply, now_s: float, who: str) -> None:
        """Take a command from a dashboard; `reply` is called exactly once, now or later."""
        name = type(command).__name__
        if command.command_id in self._pending:
            reply(_result(command, ok=False, text="this command_id is in use"))
            return
        if reason := refusal(self._telemetry.state, command):
            self._telemetry.journal("warning", "command", f"{name} refused: {reason} ({who})")
            reply(_result(command, ok=False, text=reason))
            return
        by_force = isinstance(command, wire.Stop) and self._telemetry.state.status == "stopping"
        self._telemetry.journal("info", "command", f"{describe(command, self._telemetry.state)} ({who})")
        self._telemetry.advance(CommandAccepted(command))
        reached = set() if by_force else self._send(command)
        if not reached:
            # Only a Stop gets here: one that was asked before, or to a rank that is not connected.
            self._terminate()
            reply(_result(command, ok=True, text="the training process was asked to end by SIGTERM"))
            return
        self._pending[command.command_id] = Pending(command, reply, now_s + self._timeout_s(command), reached)

    def acked(self, ack: wire.Ack) -> None:
        """A rank has answered."""
        pending = self._pending.get(ack.command_id)
        if pending is None:
            self._telemetry.journal("warning", "ack", f"late or unknown answer: {ack.error or ack.result}")
            return
        pending.acks.append(ack)
        pending.waiting.discard(ack.rank)
        if not pending.waiting:
            self._settle(pending)

    def tick(self, now_s: float) -> None:
        """Give up commands whose time is up."""
        for pending in list(self._pending.values()):
            if now_s >= pending.deadline_s:
                missing = ", ".join(map(str, sorted(pending.waiting)))
                self._fail(pending, f"no answer from rank {missing} in time")

    def rank_lost(self, rank: int, why: str) -> None:
        """A rank's connection has ended: nobody will ack what it has not acked."""
        for pending in list(self._pending.values()):
            if rank not in pending.waiting:
                continue
            if isinstance(pending.command, wire.Stop) and self._telemetry.state.last_words in ("stopped", "finished"):
                self._succeed(pending, self._telemetry.state.last_words)  # it had been told by somebody else, too
            else:
                self._fail(pending, why)

    def _settle(self, pending: Pending) -> None:
        failed = [ack for ack in pending.acks if ack.error]
        if failed:
            self._fail(pending, failed[0].error)
            return
        self._succeed(pending, pending.acks[0].result, pending.acks[0].applied_at_step)

    def _succeed(self, pending: Pending, text: str, step: int | None = None) -> None:
        del self._pending[pending.command.command_id]
        self._telemetry.advance(CommandApplied(pending.command))
        if not isinstance(pending.command, wire.SaveCheckpoint):  # there its CheckpointSaved has said it
            self._telemetry.journal("good", "ack", text)
        pending.reply(_result(pending.command, ok=True, text=text, step=step))

    def _fail(self, pending: Pending, why: str) -> None:
        del self._pending[pending.command.command_id]
        self._telemetry.advance(CommandFailed(pending.command))
        self._telemetry.journal("error", "ack", f"{describe(pending.command, self._telemetry.state)}: not done: {why}")
        pending.reply(_result(pending.command, ok=False, text=why))

    def _timeout_s(self, command: wire.Command) -> float:
        if isinstance(command, wire.SaveCheckpoint | wire.Stop | wire.DumpMemorySnapshot):
            return SAVE_TIMEOUT_S
        return max(ACK_TIMEOUT_S, 10 * (self._telemetry.state.step_time_s or 0.0))


def describe(command: wire.Command, state: wire.RunState) -> str:
    """A command in words: `micro-batch 16 x 1 = 16 -> 8 x 2 = 16`."""
    if isinstance(command, wire.SetBatchSplit):
        before = BatchSplit(state.global_batch, state.micro_batch, state.world_size)
        return f"micro-batch {before} -> {before.with_micro_batch(command.micro_batch)}"
    if isinstance(command, wire.CapStep):
        return f"step {command.step:,} at micro-batch {command.micro_batch}"
    if isinstance(command, wire.SaveCheckpoint):
        return f"{command.kind} checkpoint"
    if isinstance(command, wire.Stop):
        if wire.outside_only(state):
            return "stop by SIGTERM"
        return "stop without saving" if command.save == "none" else f"stop after a {command.save} checkpoint"
    if isinstance(command, wire.Pause):
        return "pause and free the device" if command.depth == "release" else "pause"
    if isinstance(command, wire.DumpMemorySnapshot):
        return "memory snapshot"
    return "resume" if isinstance(command, wire.Resume) else "empty the cache"


def _result(command: wire.Command, *, ok: bool, text: str, step: int | None = None) -> wire.CommandResult:
    return wire.CommandResult(
        command_id=command.command_id, command=type(command).__name__, ok=ok, applied_at_step=step, text=text
    )

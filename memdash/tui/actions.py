"""DOWN: what each key asks for, whether it can be asked now, and the command it becomes (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from memdash import wire
from memdash.batching import BatchSplit

ActionName = Literal["pause", "release", "save_light", "save_full", "split", "empty_cache", "snapshot", "stop"]


@dataclass(frozen=True)
class Action:
    """One key that asks the run for something."""

    name: ActionName
    key: str
    label: str
    short: str
    """The label where there is little room."""
    capability: str
    """The command's name in RunState.capabilities."""
    help_text: str
    ability: str
    """What a script that does not offer it cannot do."""


ACTIONS: tuple[Action, ...] = (
    Action("pause", "p", "pause", "pause", "Pause", "Pause before the next step, or go on; memory is kept.", "pause"),
    Action(
        "release",
        "P",
        "free",
        "free",
        "Release",
        "Pause and free the device: the model waits in host memory until you resume.",
        "free the device",
    ),
    Action("save_light", "c", "light ckpt", "light", "SaveCheckpoint", "Save the weights only.", "save checkpoints"),
    Action(
        "save_full",
        "C",
        "full ckpt",
        "full",
        "SaveCheckpoint",
        "Save all that an exact resume needs.",
        "save checkpoints",
    ),
    Action(
        "split",
        "b",
        "micro-batch",
        "batch",
        "SetBatchSplit",
        "Cut the same global batch into other micro-batches.",
        "change its micro-batch",
    ),
    Action(
        "empty_cache",
        "e",
        "empty cache",
        "empty",
        "EmptyCache",
        "Give reserved but unused memory back.",
        "empty the cache",
    ),
    Action(
        "snapshot",
        "m",
        "snapshot",
        "snap",
        "DumpMemorySnapshot",
        "Write torch's memory snapshot, to be opened at pytorch.org/memory_viz.",
        "write a memory snapshot",
    ),
    Action("stop", "s", "stop", "stop", "Stop", "End the run; asks first, and offers a checkpoint.", "be stopped"),
)


@dataclass(frozen=True)
class Pending:
    """A command that has not been answered."""

    command: wire.Command
    text: str


def refusal(
    action: Action,
    state: wire.RunState | None,
    *,
    linked: bool,
    pending: dict[str, Pending],
    recording: bool = False,
) -> str:
    """Why an action cannot be asked for now, in words for a person; empty when it can."""
    if recording:
        return "this is a recording"
    if state is None:
        return "nothing is known about the run yet"
    if state.status in wire.FINAL_STATUSES:
        return f"the run has ended: {state.status}"
    if not linked:
        return "the supervisor is not connected"
    if already := _pending_like(action, pending):
        return f"already {already}"
    if state.status == "stopping":
        return "the run is stopping"
    if action.name == "stop":
        return ""
    if not state.linked:
        return state.capabilities.get(action.capability) or "the training process is not connected"
    if action.name == "release" and resumes(state) and not _lacking(action, state):
        return f"already {state.status}"
    return _lacking(action, state)


def _lacking(action: Action, state: wire.RunState) -> str:
    """The script's own reason why it cannot; that it never offered to is said in other words than the protocol's."""
    unoffered = f"this script does not offer {action.capability}"
    reason = state.capabilities.get(action.capability, unoffered)
    return f"this script cannot {action.ability}" if reason == unoffered else reason


def _pending_like(action: Action, pending: dict[str, Pending]) -> str:
    names = ("Pause", "Resume") if action.name in ("pause", "release") else (action.capability,)
    same = [wait for wait in pending.values() if type(wait.command).__name__ in names]
    if action.capability == "SaveCheckpoint":
        kind = "light" if action.name == "save_light" else "full"
        same = [wait for wait in same if isinstance(wait.command, wire.SaveCheckpoint) and wait.command.kind == kind]
    return same[0].text if same else ""


def label(action: Action, state: wire.RunState | None) -> str:
    """What the key does now."""
    return "resume" if action.name == "pause" and resumes(state) else action.label


def resumes(state: wire.RunState | None) -> bool:
    """Whether `p` goes on rather than holds."""
    return state is not None and state.status in ("pausing", "paused")


def simple_command(action: Action, state: wire.RunState | None, command_id: str) -> wire.Command:
    """The command of an action that needs no dialog."""
    if action.name == "pause":
        return wire.Resume(command_id=command_id) if resumes(state) else wire.Pause(command_id=command_id)
    if action.name == "release":
        return wire.Pause(command_id=command_id, depth="release")
    if action.name == "empty_cache":
        return wire.EmptyCache(command_id=command_id)
    if action.name == "snapshot":
        return wire.DumpMemorySnapshot(command_id=command_id)
    assert action.name in ("save_light", "save_full"), action.name
    return wire.SaveCheckpoint(command_id=command_id, kind="light" if action.name == "save_light" else "full")


def command_name(kind: str) -> str:
    """`SaveCheckpoint` -> `save checkpoint`: a message's type as a person says it."""
    return re.sub(r"(?<!^)(?=[A-Z])", " ", kind).lower()


def pending_text(command: wire.Command, state: wire.RunState | None) -> str:
    """What is about to happen, and when."""
    when = "now" if state is not None and state.status == "paused" else "at the next step"
    match command:
        case wire.Pause(depth="release"):
            return "pausing at the next step and freeing the device"
        case wire.Pause():
            return "pausing at the next step"
        case wire.Resume():
            return "resuming"
        case wire.SetBatchSplit(micro_batch=micro_batch):
            return f"changing the split to {_split(micro_batch, state)} {when}"
        case wire.CapStep(step=step, micro_batch=micro_batch):
            return f"cutting step {step:,} to micro-batch {micro_batch}"
        case wire.SaveCheckpoint(kind=kind):
            return f"saving a {kind} checkpoint {when}"
        case wire.EmptyCache():
            return f"emptying the cache {when}"
        case wire.DumpMemorySnapshot():
            return f"writing a memory snapshot {when}"
        case wire.Stop(save="none"):
            return f"stopping {when}, saving nothing"
        case wire.Stop(save=kind):
            return f"stopping {when}, after a {kind} checkpoint"


def _split(micro_batch: int, state: wire.RunState | None) -> str:
    if state is None or not state.global_batch:
        return f"micro-batch {micro_batch}"
    return str(BatchSplit(state.global_batch, micro_batch, state.world_size))

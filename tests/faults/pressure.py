"""Faults of a machine that has too little, or gets too much: disk, device memory, output, commands."""

from __future__ import annotations

import time

from memdash import wire
from memdash.errors import ExitCode
from tests.faults.storm import Evidence, Fault, Storm
from tests.faults.training import START_S
from tests.faults.waiting import Stuck, until

LOG_MAX_BYTES = 33 << 20
FLOODS_MIB = (10, 30, 100)
NEIGHBOUR_SLICES = 12
SIZES = (1, 2, 3, 5, 8, 16)
NOT_SAVED = r"checkpoint not saved|checkpoint: not done: no room"


def disk_without_room(storm: Storm) -> Evidence:
    """The record still fits, a checkpoint does not."""
    place = storm.place
    size = _checkpoint_bytes(storm)
    try:
        _cannot_save(storm, leave_bytes=storm.chance.randrange(size // 4, size // 2))
        storm.training.wait_for_progress()
    finally:
        place.give_disk_back()
    _saves_again(storm)
    return {NOT_SAVED: 1}


def disk_full_in_a_save(storm: Storm) -> Evidence:
    """Enough room when the save begins; then somebody else takes it, to the last byte."""
    training, place = storm.training, storm.place
    try:
        place.take_disk(_checkpoint_bytes(storm) * 3 // 2)
        verb = place.start_memdash("checkpoint", training.run_id, "--full")
        training.wait_for_save()
        place.take_disk(0)
        verb.wait(timeout=START_S)
        _cannot_save(storm, leave_bytes=0)
        training.order(flood_mib=1)  # there is no room for what it prints either
        training.wait_for_progress()
        end_s = time.monotonic() + storm.chance.uniform(1, 4)
        until(lambda: place.take_disk(0) or time.monotonic() > end_s, "the disk to be full for a while", 60)
    finally:
        place.give_disk_back()
    _saves_again(storm)
    return {NOT_SAVED: 1}


def supervisor_killed_on_full_disk(storm: Storm) -> Evidence:
    """A new one may not be able to come before there is room; the training does not mind."""
    training, place = storm.training, storm.place
    try:
        place.take_disk(0)
        training.kill_supervisor()
        viewer = place.start_memdash("attach", training.run_id, "--headless")
        try:
            training.wait_for_progress()
            until(lambda: training.is_served() or viewer.poll() is not None, "an answer to `memdash attach`", START_S)
        finally:
            viewer.kill()
            viewer.wait()
    finally:
        place.give_disk_back()
    training.bring_supervisor()
    _saves_again(storm)
    return {r"link: a new supervisor has adopted pid": 1}


def trainer_killed_on_full_disk(storm: Storm) -> Evidence:
    """kill -9: the next attempt has no room for anything, and trains."""
    training, place = storm.training, storm.place
    _checkpoint_bytes(storm)
    try:
        place.take_disk(0)
        pid = training.trainer()
        training.kill(pid)
        until(lambda: training.trainer() not in (None, pid), "the next attempt", START_S)
        training.wait_for_progress()
    finally:
        place.give_disk_back()
    _saves_again(storm)
    return {r"killed by SIGKILL": 1}


def flood(storm: Storm) -> Evidence:
    """The task prints much more than anyone can read: the log stays bounded."""
    training = storm.training
    training.order(flood_mib=storm.chance.choice(FLOODS_MIB))
    log = training.directory.output
    until(lambda: log.stat().st_size <= LOG_MAX_BYTES, "the output to be cut", START_S)
    return {}


def controls(storm: Storm) -> Evidence:
    """Verbs in any order, three at a time; each is answered and journaled."""
    training, chance = storm.training, storm.chance
    words = [("pause",), ("resume",), ("pause", "--release"), ("checkpoint",), ("checkpoint", "--full")]
    words += [("empty-cache",), ("resume",)]
    asked = [chance.choice(words) for _ in range(chance.randrange(4, 10))]
    for start in range(0, len(asked), 3):
        verbs = [
            storm.place.start_memdash(name, training.run_id, *rest, "--json")
            for name, *rest in asked[start : start + 3]
        ]
        until(lambda verbs=verbs: all(verb.poll() is not None for verb in verbs), f"answers to {asked}", START_S)
        codes = {verb.returncode for verb in verbs}
        if not codes <= {ExitCode.OK, ExitCode.COMMAND}:
            raise Stuck(f"{asked[start : start + 3]} exited with {sorted(codes)}")
    return {r"command: .*\(a shell\)": len(asked)}


def out_of_memory(storm: Storm) -> Evidence:
    """One allocation fails, anywhere in forward, backward, update or evaluation."""
    storm.training.order(fail_in=storm.chance.randrange(1, 400))
    return {r"oom: out of memory in": 1}


def neighbour(storm: Storm) -> Evidence:
    """Another process takes most of the device for some time, while the run is at its largest micro-batch."""
    training = storm.training
    if training.verb("batch", "--micro-batch", str(SIZES[-1])) not in (ExitCode.OK, ExitCode.COMMAND):
        raise Stuck("`memdash batch` failed")
    free = _free_device_bytes(storm)
    training.order(neighbour_bytes=int(free * storm.chance.uniform(0.7, 0.88)), slices=NEIGHBOUR_SLICES)
    training.wait_for_progress(NEIGHBOUR_SLICES + 1)
    return {r"oom: out of memory in": 1}


def _free_device_bytes(storm: Storm) -> int:
    """Between two steps, as the run's state has it, which is saved every few seconds."""

    def memory() -> wire.DeviceMemory | None:
        state = storm.training.state()
        return state.memory if state else None

    until(memory, "a state with the device's memory", START_S)
    found = memory()
    assert found is not None
    return (found.capacity_bytes or 0) - (found.allocated_bytes or 0)


def batch(storm: Storm) -> Evidence:
    """The user changes the split, also to one that does not fit."""
    size = storm.chance.choice(SIZES)
    if storm.training.verb("batch", "--micro-batch", str(size)) != ExitCode.OK:
        raise Stuck(f"`memdash batch --micro-batch {size}` failed")
    return {r"command: micro-batch .*\(a shell\)": 1}


def _checkpoint_bytes(storm: Storm) -> int:
    until(storm.training.full_checkpoints, "the first full checkpoint", START_S)
    return storm.training.full_checkpoints()[0].size_bytes


def _cannot_save(storm: Storm, leave_bytes: int) -> None:
    """A save that was under way may still remove an old checkpoint, and so make room for one more."""

    def refused() -> bool:
        storm.place.take_disk(leave_bytes)
        return storm.training.verb("checkpoint", "--full") == ExitCode.COMMAND

    until(refused, "a checkpoint to be refused for want of room", START_S)


def _saves_again(storm: Storm) -> None:
    """There is room; the schedule would wait a minute before it tries again. One that has finished meanwhile has saved."""

    def saved() -> bool:
        return storm.training.verb("checkpoint", "--full") == ExitCode.OK or storm.training.is_finished()

    until(saved, "a checkpoint once there is room", START_S)


CERTAIN_RESPLIT = Fault("memory: a neighbour takes it", neighbour, "nothing", resplits=True)
FAULTS = [
    Fault("disk: no room for a checkpoint", disk_without_room, "nothing", needs="disk"),
    Fault("disk: full in mid-save", disk_full_in_a_save, "nothing", needs="disk", loses_samples=True),
    Fault(
        "disk: full, supervisor killed",
        supervisor_killed_on_full_disk,
        "supervisor",
        needs="disk",
        loses_samples=True,
    ),
    Fault("disk: full, trainer killed", trainer_killed_on_full_disk, "attempt", needs="disk", loses_samples=True),
    Fault("output: a flood", flood, "nothing"),
    Fault("controls: verbs in any order", controls, "nothing"),
    Fault("memory: an allocation fails", out_of_memory, "nothing", weight=2, resplits=True, needs="compiler"),
    CERTAIN_RESPLIT,
    Fault("controls: another micro-batch", batch, "nothing", resplits=True),
]

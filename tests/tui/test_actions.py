"""Which key may ask for what, when, and what is said otherwise."""

from __future__ import annotations

import pytest

from memdash import wire
from memdash.tui.actions import ACTIONS, Action, Pending, command_name, label, pending_text, refusal, simple_command
from memdash.tui.pace import NORMAL_S, SLOWEST_S, next_period
from tests.tui import scenes

BY_NAME = {action.name: action for action in ACTIONS}
EVERY = tuple(BY_NAME)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("changes", "linked", "reason"),
    [
        ({}, True, ""),
        ({"status": "finished"}, True, "the run has ended: finished"),
        ({"status": "oom"}, False, "the run has ended: oom"),
        ({}, False, "the supervisor is not connected"),
        ({"status": "stopping"}, True, "the run is stopping"),
    ],
)
def test_refusals_that_hold_for_every_key(name: str, changes: dict[str, object], linked: bool, reason: str) -> None:
    assert refusal(BY_NAME[name], scenes.state(**changes), linked=linked, pending={}) == reason  # type: ignore[index]


@pytest.mark.parametrize("name", [name for name in EVERY if name != "stop"])
def test_a_script_is_asked_only_for_what_it_offers(name: str) -> None:
    action: Action = BY_NAME[name]  # type: ignore[index]
    cannot = scenes.state(capabilities={action.capability: "this loader is a stream"})
    assert refusal(action, cannot, linked=True, pending={}) == "this loader is a stream"
    silent = scenes.state(capabilities={})
    unoffered = scenes.state(capabilities={action.capability: f"this script does not offer {action.capability}"})
    for state in (silent, unoffered):
        reason = refusal(action, state, linked=True, pending={})
        assert reason.startswith("this script cannot ")
        assert action.capability not in reason
    away = scenes.state(linked=False)
    assert refusal(action, away, linked=True, pending={}) == "the training process is not connected"


@pytest.mark.parametrize("status", ["running", "paused"])
def test_freeing_the_device_is_called_the_same_everywhere(status: str) -> None:
    free = BY_NAME["release"]
    state = scenes.state(
        status=status, capabilities={**scenes.CAPABLE, "Release": "this script does not offer Release"}
    )
    assert (label(free, state), free.short) == ("free", "free")
    assert free.help_text.startswith("Pause and free the device")
    assert refusal(free, state, linked=True, pending={}) == "this script cannot free the device"
    able = scenes.state(status=status)
    assert refusal(free, able, linked=True, pending={}) == ("already paused" if status == "paused" else "")


def test_stop_needs_no_script() -> None:
    assert refusal(BY_NAME["stop"], scenes.state(linked=False, capabilities={}), linked=True, pending={}) == ""


def test_nothing_is_known_yet() -> None:
    assert refusal(BY_NAME["pause"], None, linked=True, pending={}) == "nothing is known about the run yet"


@pytest.mark.parametrize(
    ("waiting", "name", "refused"),
    [
        (wire.Pause(command_id="1"), "pause", True),
        (wire.Resume(command_id="1"), "pause", True),
        (wire.Pause(command_id="1"), "release", True),
        (wire.Pause(command_id="1"), "save_full", False),
        (wire.SaveCheckpoint(command_id="1", kind="light"), "save_light", True),
        (wire.SaveCheckpoint(command_id="1", kind="light"), "save_full", False),
        (wire.SetBatchSplit(command_id="1", micro_batch=4), "split", True),
        (wire.Stop(command_id="1"), "stop", True),
    ],
)
def test_the_same_thing_is_not_asked_twice(waiting: wire.Command, name: str, refused: bool) -> None:
    pending = {"1": Pending(waiting, "on its way")}
    reason = refusal(BY_NAME[name], scenes.state(), linked=True, pending=pending)  # type: ignore[index]
    assert reason == ("already on its way" if refused else "")


@pytest.mark.parametrize(
    ("name", "status", "command"),
    [
        ("pause", "running", wire.Pause(command_id="x")),
        ("pause", "paused", wire.Resume(command_id="x")),
        ("pause", "pausing", wire.Resume(command_id="x")),
        ("release", "running", wire.Pause(command_id="x", depth="release")),
        ("save_light", "running", wire.SaveCheckpoint(command_id="x", kind="light")),
        ("save_full", "paused", wire.SaveCheckpoint(command_id="x", kind="full")),
        ("empty_cache", "running", wire.EmptyCache(command_id="x")),
        ("snapshot", "running", wire.DumpMemorySnapshot(command_id="x")),
    ],
)
def test_commands(name: str, status: str, command: wire.Command) -> None:
    assert simple_command(BY_NAME[name], scenes.state(status=status), "x") == command  # type: ignore[index]


@pytest.mark.parametrize(
    ("command", "status", "text"),
    [
        (wire.Pause(command_id="x"), "running", "pausing at the next step"),
        (wire.Pause(command_id="x", depth="release"), "running", "pausing at the next step and freeing the device"),
        (wire.Resume(command_id="x"), "paused", "resuming"),
        (
            wire.SetBatchSplit(command_id="x", micro_batch=4),
            "running",
            "changing the split to 4 x 4 = 16 at the next step",
        ),
        (wire.SaveCheckpoint(command_id="x", kind="full"), "paused", "saving a full checkpoint now"),
        (wire.EmptyCache(command_id="x"), "running", "emptying the cache at the next step"),
        (wire.DumpMemorySnapshot(command_id="x"), "paused", "writing a memory snapshot now"),
        (wire.Stop(command_id="x", save="none"), "running", "stopping at the next step, saving nothing"),
        (wire.Stop(command_id="x", save="light"), "running", "stopping at the next step, after a light checkpoint"),
    ],
)
def test_what_is_pending(command: wire.Command, status: str, text: str) -> None:
    assert pending_text(command, scenes.state(status=status)) == text


def test_the_pause_key_says_what_it_does_now() -> None:
    assert label(BY_NAME["pause"], scenes.state()) == "pause"
    assert label(BY_NAME["pause"], scenes.state(status="paused")) == "resume"


def test_a_run_that_is_paused_is_not_paused_otherwise() -> None:
    assert refusal(BY_NAME["release"], scenes.state(status="paused"), linked=True, pending={}) == "already paused"


def test_every_key_is_there_once() -> None:
    assert [action.key for action in ACTIONS] == ["p", "P", "c", "C", "b", "e", "m", "s"]
    no_key = {"Resume", "CapStep"}  # `p` again, and what the supervisor asks for by itself
    commands = {command.__name__ for command in wire.COMMANDS} - no_key | {"Release"}
    assert {action.capability for action in ACTIONS} == commands


def test_a_slow_terminal_slows_the_drawing_down_and_a_quick_one_wins_it_back() -> None:
    period = NORMAL_S
    for _ in range(10):
        period = next_period(period, 1.0)
    assert period == SLOWEST_S
    for _ in range(20):
        period = next_period(period, 0.0)
    assert period == NORMAL_S


def test_commands_are_named_as_a_person_says_them() -> None:
    assert [command_name(command.__name__) for command in wire.COMMANDS] == [
        "pause",
        "resume",
        "set batch split",
        "cap step",
        "save checkpoint",
        "empty cache",
        "dump memory snapshot",
        "stop",
    ]

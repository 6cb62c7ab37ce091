"""Histories of runs as tables of events, and what the state is after each."""

from __future__ import annotations

import msgspec
import pytest

from memdash import wire
from memdash.errors import ExitCode
from memdash.host.oom_kill import LevelEvidence, OomEvidence
from memdash.supervisor.events import (
    CommandAccepted,
    CommandApplied,
    CommandFailed,
    LinkChanged,
    NotHeardOf,
    RankExited,
    RankStarted,
    StopDecided,
)
from memdash.supervisor.run_state import advance, outcome_exit_code, refusal

ABLE = {command.__name__: "" for command in wire.COMMANDS}
OUTSIDE = {"Stop": ""} | {
    name: "this program has not made a memdash.Session" for name in (*ABLE, "Release") if name != "Stop"
}
FIRST = wire.RunState(run_id="r", name="r")
STARTED = [
    RankStarted(time_s=100.0, pid=7),
    LinkChanged(linked=True, capabilities=ABLE),
    wire.TrainingStarted(
        rank=0,
        time_s=101.0,
        start_step=0,
        total_steps=100,
        steps_per_epoch=50,
        num_examples=800,
        global_batch=16,
        micro_batch=16,
    ),
]
PAUSE, RESUME, STOP = wire.Pause(command_id="p"), wire.Resume(command_id="r"), wire.Stop(command_id="s")
SPLIT = wire.SetBatchSplit(command_id="b", micro_batch=4)


def step(number: int, step_time_s: float = 0.5, **changes: object) -> wire.StepReport:
    fields = {
        "rank": 0,
        "seq": number,
        "time_s": 101.0 + number,
        "step": number,
        "epoch": 0,
        "examples_seen": 16 * number,
        "micro_batch": 16,
        "grad_accum_steps": 1,
        "step_time_s": step_time_s,
        "loss": 5.0 - 0.01 * number,
    }
    return wire.StepReport(**{**fields, **changes})


def memory(allocated: int, peak: int) -> wire.DeviceMemory:
    return wire.DeviceMemory(
        device="cuda:0", kind="exact", capacity_bytes=100, allocated_bytes=allocated, peak_allocated_bytes=peak
    )


def between_steps(allocated: int, peak: int) -> wire.MemorySample:
    return wire.MemorySample(rank=0, seq=9, time_s=1.0, step=1, memory=memory(allocated, peak))


def phase(name: str, time_s: float) -> wire.PhaseChanged:
    return wire.PhaseChanged(rank=0, time_s=time_s, step=1, phase=name)


def bye(outcome: str, reason: str = "") -> wire.Goodbye:
    return wire.Goodbye(rank=0, time_s=1.0, step=1, outcome=outcome, reason=reason)


KILLED = OomEvidence(levels=(LevelEvidence("/a", None, "memory.max", kills=1),))


def exited(code: int | None, **more: object) -> RankExited:
    return RankExited(time_s=200.0, exit_code=code, **more)


HISTORIES = {
    "before anything": ([], {"status": "starting", "phase": "loading"}),
    "loading": (STARTED[:1], {"status": "starting", "pid": 7, "started_s": 100.0}),
    "a command that has not made a session": (
        [*STARTED[:1], NotHeardOf()],
        {"status": "running", "phase": "training", "capabilities": OUTSIDE},
    ),
    "one that makes it later": (
        [*STARTED[:1], NotHeardOf(), *STARTED[1:]],
        {"status": "running", "capabilities": ABLE, "linked": True, "total_steps": 100},
    ),
    "one that is being stopped": (
        [*STARTED[:1], CommandAccepted(STOP), NotHeardOf()],
        {"status": "stopping"},
    ),
    "what the attempt before could do": (
        [*STARTED, exited(1), RankStarted(time_s=300.0, pid=8, attempt=1)],
        {"capabilities": {}, "status": "starting"},
    ),
    "training": (STARTED, {"status": "running", "total_steps": 100, "micro_batch": 16, "grad_accum_steps": 1}),
    "one step": (
        [*STARTED, step(1)],
        {"step": 1, "loss": 4.99, "first_loss": 4.99, "step_time_s": 0.5, "eta_s": 49.5, "examples_per_s": 32.0},
    ),
    "smoothed pace": ([*STARTED, step(1), step(2, 1.5)], {"step_time_s": 0.6, "first_loss": 4.99}),
    "pausing": ([*STARTED, CommandAccepted(PAUSE)], {"status": "pausing"}),
    "paused": (
        [*STARTED, CommandAccepted(PAUSE), phase("paused", 110.0)],
        {"status": "paused", "paused_since_s": 110.0, "paused_s": 0.0},
    ),
    "resumed": (
        [*STARTED, CommandAccepted(PAUSE), phase("paused", 110.0), CommandAccepted(RESUME), phase("training", 130.0)],
        {"status": "running", "paused_s": 20.0, "paused_since_s": None},
    ),
    "saving while paused": (
        [*STARTED, phase("paused", 110.0), phase("saving", 111.0), phase("paused", 112.0), phase("training", 115.0)],
        {"status": "running", "paused_s": 5.0},
    ),
    "resumed before it was paused": (
        [*STARTED, CommandAccepted(PAUSE), CommandAccepted(RESUME)],
        {"status": "running"},
    ),
    "pause refused by the rank": (
        [*STARTED, CommandAccepted(PAUSE), CommandFailed(PAUSE)],
        {"status": "running"},
    ),
    "stop failed while paused": (
        [*STARTED, phase("paused", 110.0), CommandAccepted(STOP), CommandFailed(STOP)],
        {"status": "paused"},
    ),
    "re-batched": ([*STARTED, CommandApplied(SPLIT)], {"micro_batch": 4, "grad_accum_steps": 4, "global_batch": 16}),
    "greeted again after a re-batch": (
        [*STARTED, CommandApplied(SPLIT), STARTED[2]],
        {"micro_batch": 4, "grad_accum_steps": 4},
    ),
    "a reading between steps keeps the step's peak": (
        [*STARTED, step(1, memory=memory(10, 80)), between_steps(5, 7)],
        {"memory": memory(5, 80)},
    ),
    "a higher peak between steps counts": (
        [*STARTED, step(1, memory=memory(10, 80)), between_steps(5, 90)],
        {"memory": memory(5, 90)},
    ),
    "an OOM shrinks the split": (
        [
            *STARTED,
            wire.OomReport(
                rank=0, time_s=1.0, step=1, where="forward/backward", micro_batch=16, next_micro_batch=8, message="x"
            ),
        ],
        {"num_ooms": 1, "num_recoveries": 1, "micro_batch": 8, "grad_accum_steps": 2},
    ),
    "an OOM in evaluation leaves the split": (
        [
            *STARTED,
            wire.OomReport(
                rank=0, time_s=1.0, step=1, where="evaluation", micro_batch=16, next_micro_batch=8, message="x"
            ),
        ],
        {"num_ooms": 1, "num_recoveries": 1, "micro_batch": 16},
    ),
    "an OOM beyond recovery": (
        [
            *STARTED,
            wire.OomReport(
                rank=0, time_s=1.0, step=1, where="forward/backward", micro_batch=1, next_micro_batch=None, message="x"
            ),
        ],
        {"num_ooms": 1, "num_recoveries": 0, "micro_batch": 16},
    ),
    "grown back": (
        [*STARTED, wire.SplitChanged(rank=0, time_s=1.0, step=1, before=8, after=16, cause="200 steps without an OOM")],
        {"num_growths": 1, "micro_batch": 16, "grad_accum_steps": 1},
    ),
    "finished": ([*STARTED, bye("finished"), exited(0)], {"status": "finished", "exit_code": 0, "linked": False}),
    "finished unseen by its parent": ([*STARTED, bye("finished"), exited(None)], {"status": "finished"}),
    "exit 0 without a word": ([STARTED[0], exited(0)], {"status": "finished"}),
    "stopped": ([*STARTED, CommandAccepted(STOP), bye("stopped", "asked"), exited(10)], {"status": "stopped"}),
    "stopped by a signal after a request": (
        [STARTED[0], CommandAccepted(STOP), exited(-15)],
        {"status": "stopped", "status_reason": "ended by SIGTERM after a stop request"},
    ),
    "failed": ([*STARTED, exited(1)], {"status": "failed", "status_reason": "exit code 1"}),
    "failed with a traceback": (
        [*STARTED, exited(1, output="Traceback (most recent call last):\n  File\nKeyError: 'x'\n")],
        {"status": "failed", "status_reason": "KeyError: 'x'"},
    ),
    "failed and said why": (
        [*STARTED, bye("failed", "boom"), exited(1)],
        {"status": "failed", "status_reason": "boom"},
    ),
    "out of memory": ([*STARTED, bye("oom", "example 7"), exited(12)], {"status": "oom", "status_reason": "example 7"}),
    "killed": ([*STARTED, exited(-9)], {"status": "killed", "oom_killed": False}),
    "killed by the kernel": ([*STARTED, exited(-9, oom=KILLED)], {"status": "killed", "oom_killed": True}),
    "segfault with oom elsewhere": ([*STARTED, exited(-11, oom=KILLED)], {"status": "killed", "oom_killed": False}),
    "lost": ([*STARTED, exited(None)], {"status": "lost"}),
    "next attempt": (
        [*STARTED, step(5), exited(-9), RankStarted(time_s=300.0, pid=8)],
        {"status": "starting", "pid": 8, "step": 5, "micro_batch": 0, "last_words": "", "past_s": 100.0},
    ),
    "the third attempt": (
        [
            *STARTED,  # at 100 s
            phase("paused", 110.0),
            phase("training", 130.0),
            exited(10),  # at 200 s
            RankStarted(time_s=5000.0, pid=8, attempt=1),
            phase("paused", 5020.0),
            RankStarted(time_s=5050.0, pid=9, attempt=2, by_policy=True),  # it died while it was paused
        ],
        {"attempt": 2, "past_s": 80.0 + 20.0, "paused_s": 0.0, "paused_since_s": None},
    ),
}


@pytest.mark.parametrize(("events", "expected"), HISTORIES.values(), ids=HISTORIES.keys())
def test_history(events, expected):
    state = FIRST
    for event in events:
        state = advance(state, event)
    found = {name: getattr(state, name) for name in expected}
    numbers = {name for name, value in expected.items() if isinstance(value, float)}
    assert {name: found[name] for name in numbers} == pytest.approx({name: expected[name] for name in numbers})
    assert {name: found[name] for name in found.keys() - numbers} == {
        name: expected[name] for name in expected.keys() - numbers
    }


@pytest.mark.parametrize(
    ("status", "oom_killed", "code"),
    [
        ("finished", False, ExitCode.OK),
        ("stopped", False, ExitCode.STOPPED),
        ("failed", False, ExitCode.FAILED),
        ("oom", False, ExitCode.OUT_OF_MEMORY),
        ("killed", False, ExitCode.KILLED),
        ("killed", True, ExitCode.HOST_OOM),
        ("lost", False, ExitCode.LOST),
    ],
)
def test_outcomes_have_exit_codes_of_their_own(status, oom_killed, code):
    assert outcome_exit_code(wire.RunState(run_id="r", name="r", status=status, oom_killed=oom_killed)) == code


RUNNING = msgspec.structs.replace(FIRST, status="running", linked=True, capabilities=ABLE, global_batch=16, step=3)


@pytest.mark.parametrize(
    ("changes", "command", "reason"),
    [
        ({}, PAUSE, ""),
        ({}, SPLIT, ""),
        ({"status": "paused"}, SPLIT, ""),
        ({"status": "paused"}, PAUSE, "already paused"),
        ({"status": "pausing"}, RESUME, ""),
        ({}, RESUME, "the run is not paused"),
        ({"linked": False}, PAUSE, "the training process does not answer"),
        ({"linked": False, "step": 0}, PAUSE, "the training process is not connected yet"),
        ({"linked": False}, STOP, ""),
        ({"status": "stopping"}, STOP, "already stopping; a stop that saves nothing ends it by force"),
        ({"status": "stopping"}, wire.Stop(command_id="s", save="none"), ""),
        ({"status": "finished"}, STOP, "the run is over: finished"),
        ({"capabilities": ABLE | {"SetBatchSplit": "no"}}, SPLIT, "no"),
        ({"linked": False, "capabilities": OUTSIDE}, PAUSE, OUTSIDE["Pause"]),
        ({"linked": False, "capabilities": OUTSIDE}, STOP, ""),
        ({"capabilities": {}}, PAUSE, "this script does not offer Pause"),
        (
            {},
            wire.SetBatchSplit(command_id="b", micro_batch=0),
            "micro_batch=0 is not between 1 and 16",
        ),
    ],
)
def test_refusals(changes, command, reason):
    assert refusal(msgspec.structs.replace(RUNNING, **changes), command) == reason


def test_a_stop_that_the_supervisor_decided_says_why():
    state = wire.RunState(
        run_id="r", name="r", status="stopping", last_words="stopped", status_reason="stopped on request"
    )
    state = advance(state, StopDecided("by the guard, before memory ran out: host memory full"))
    ended = advance(state, RankExited(time_s=9.0, exit_code=10))
    assert (ended.status, ended.status_reason) == ("stopped", "by the guard, before memory ran out: host memory full")
    again = advance(ended, RankStarted(time_s=10.0, pid=7, attempt=1))
    assert again.stop_cause == ""


def test_the_exit_code_2_of_a_command_is_no_wrong_use_of_memdash():
    ours = msgspec.structs.replace(FIRST, status="failed", exit_code=2)
    assert outcome_exit_code(ours) == ExitCode.USAGE
    assert outcome_exit_code(msgspec.structs.replace(ours, own_command=True)) == ExitCode.FAILED


def test_who_is_only_watched_from_outside():
    outside = msgspec.structs.replace(FIRST, own_command=True, capabilities=OUTSIDE)
    assert wire.outside_only(outside) == OUTSIDE["Pause"]
    assert wire.outside_only(msgspec.structs.replace(outside, linked=True, capabilities=ABLE)) == ""
    assert wire.outside_only(msgspec.structs.replace(outside, capabilities=ABLE)) == ""  # its supervisor was replaced
    assert wire.outside_only(FIRST) == ""


@pytest.mark.parametrize(("total", "eta_s"), [(100, 49.5), (1, 0.0), (0, None)])
def test_a_loop_that_goes_on_past_its_total_does_not_say_when_it_ends(total, eta_s):
    state = wire.RunState(run_id="r", name="r", status="running", phase="training", total_steps=total)
    assert advance(state, step(1)).eta_s == eta_s

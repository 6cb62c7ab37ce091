"""Histories of failing runs: restarted, restarted smaller, given up."""

from __future__ import annotations

import pytest

from memdash import wire
from memdash.supervisor.policy import GiveUp, Restart, after_failure

FAILED = {
    "status": "failed",
    "status_reason": "KeyError: 'x'",
    "step": 50,
    "start_step": 10,
    "started_s": 100.0,
    "ended_s": 400.0,
    "global_batch": 16,
    "micro_batch": 8,
}
CASES = {
    "switched off": ({}, 0, 0, GiveUp("")),
    "finished": ({"status": "finished"}, 0, 3, GiveUp("")),
    "stopped by a person": ({"status": "stopped"}, 0, 3, GiveUp("")),
    "lost": ({"status": "lost"}, 0, 3, GiveUp("")),
    "an error of its own": ({}, 0, 3, Restart(None, "restart 1 of 3 after: KeyError: 'x'")),
    "the last one": ({}, 2, 3, Restart(None, "restart 3 of 3 after: KeyError: 'x'")),
    "used up": ({}, 3, 3, GiveUp("not restarted: 3 of 3 restarts are used")),
    "device memory": (
        {"status": "oom"},
        0,
        3,
        Restart(4, "restart 1 of 3, memory ran out: micro-batch 8 -> 4"),
    ),
    "host memory": (
        {"status": "killed", "oom_killed": True},
        1,
        3,
        Restart(4, "restart 2 of 3, memory ran out: micro-batch 8 -> 4"),
    ),
    "killed by somebody": (
        {"status": "killed", "status_reason": "killed by SIGKILL"},
        0,
        3,
        Restart(None, "restart 1 of 3 after: killed by SIGKILL"),
    ),
    "nothing smaller": (
        {"status": "oom", "micro_batch": 1},
        0,
        3,
        GiveUp("not restarted: memory ran out at micro-batch 1, and there is no smaller one"),
    ),
    "died young": (
        {"step": 10, "ended_s": 105.0},
        0,
        3,
        GiveUp("not restarted: the attempt died after 5 s without a step"),
    ),
    "died young but after steps": ({"ended_s": 105.0}, 0, 3, Restart(None, "restart 1 of 3 after: KeyError: 'x'")),
    "died late without a step": (
        {"step": 10, "ended_s": 900.0},
        0,
        3,
        Restart(None, "restart 1 of 3 after: KeyError: 'x'"),
    ),
}


@pytest.mark.parametrize(("changes", "restarts", "allowed", "expected"), CASES.values(), ids=CASES.keys())
def test_after_failure(changes, restarts, allowed, expected):
    state = wire.RunState(run_id="r", name="r", **{**FAILED, **changes})
    assert after_failure(state, restarts=restarts, allowed=allowed) == expected


def test_it_never_loops():
    state = wire.RunState(run_id="r", name="r", **FAILED)
    restarts = 0
    while isinstance(after_failure(state, restarts=restarts, allowed=5), Restart):
        restarts += 1
        assert restarts <= 5

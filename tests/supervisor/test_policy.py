"""Histories of failing runs: restarted, restarted smaller, given up."""

from __future__ import annotations

import pytest

from memdash import wire
from memdash.supervisor.policy import SAVE_MARGIN_S, GiveUp, Restart, after_failure, wall_budget

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
    "host memory, by the workers": (
        {"status": "killed", "oom_killed": True, "worker_killed": True, "status_reason": "a worker was taken"},
        0,
        3,
        Restart(None, "restart 1 of 3 after: a worker was taken"),
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
    "cannot be cut": (
        {"status": "oom", "capabilities": {"SetBatchSplit": "it trains a step in one slice"}},
        0,
        3,
        GiveUp("not restarted: memory ran out, and the step cannot be cut smaller: it trains a step in one slice"),
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


RUNNING = {"status": "running", "started_s": 1000.0, "step": 100, "step_time_s": 2.0, "eta_s": 100.0}


@pytest.mark.parametrize(
    ("changes", "elapsed_s", "verdict"),
    [
        ({}, 10, "enough"),
        ({}, 3600 - SAVE_MARGIN_S - 5, "short"),
        ({}, 3600 - SAVE_MARGIN_S - 4, "stop"),
        ({"eta_s": 5000.0}, 10, "short"),
        ({"eta_s": 5000.0, "step": 10}, 10, "enough"),  # too early to tell
        ({"eta_s": 5000.0, "step": 110, "start_step": 100}, 10, "enough"),
        ({"longest_save_s": 100.0}, 3600 - 204, "stop"),
        ({"longest_save_s": 0.1}, 3600 - 5, "stop"),
        ({"longest_save_s": 0.1}, 3600 - 6, "short"),
        ({"paused_s": 1000.0}, 3600, "enough"),
        ({"status": "paused"}, 9999, "enough"),
        ({"status": "stopping"}, 9999, "enough"),
        ({"status": "finished"}, 9999, "enough"),
        ({"status": "starting", "started_s": None}, 9999, "enough"),
    ],
)
def test_wall_budget(changes, elapsed_s, verdict):
    state = wire.RunState(run_id="r", name="r", **{**RUNNING, **changes})
    assert wall_budget(state, 1000.0 + elapsed_s, 3600.0) == verdict


def test_no_wall_budget():
    assert wall_budget(wire.RunState(run_id="r", name="r", **RUNNING), 1e9, 0.0) == "enough"

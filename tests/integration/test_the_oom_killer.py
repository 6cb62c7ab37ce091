"""The kernel's own OOM killer, in a memory cgroup with a real limit: who dies, and what is said of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from memdash.errors import ExitCode
from memdash.host import oom_evidence
from memdash.store.recorder import recorded_ranks
from memdash.supervisor.launch import is_supervised
from memdash.supervisor.run_state import outcome_exit_code
from tests.conftest import wait_until

LIMIT = 300 << 20
GROW = "import sys; sys.path.insert(0, sys.argv[1]); from tests.programs.fake_rank import grow; grow()"
ROOT = Path(__file__).parents[2]

needs_the_log = pytest.mark.skipif(
    oom_evidence._records(oom_evidence.KMSG) is None, reason="the kernel's log is closed"
)


def at_limit(cgroup) -> str:
    return f"cgroup {cgroup.level.name} reached its limit of 300 MiB ({cgroup.level.limit_file})"


def unwatched(run) -> None:
    """Kill the supervisor."""
    os.kill(run.supervisor_pid(), signal.SIGKILL)
    wait_until(lambda: not is_supervised(run.directory), "the supervisor to be gone")


def test_it_takes_the_trainer_which_goes_on_smaller_and_then_ends(memory_cgroup, start_run):
    cgroup = memory_cgroup(LIMIT)
    run = start_run(restarts=1, inside=cgroup.inside)
    supervisor = run.supervisor_pid()
    attach = [sys.executable, "-m", "memdash", "attach", run.run_id, "--headless"]
    with subprocess.Popen(attach, stdout=subprocess.PIPE, text=True) as watcher:
        run.order("sg")
        run.wait_for_journal("restart 1 of 1, memory ran out: micro-batch 16 -> 8")
        run.order("sg")
        state = run.wait_for_end()
        out, _ = watcher.communicate(timeout=20)
    reason = f"the kernel's OOM killer ended the training process: {at_limit(cgroup)}"
    assert (state.status, state.status_reason, state.oom_killed) == ("killed", reason, True)
    assert (state.attempt, state.micro_batch) == (1, 8)
    assert any(f"attempt 0 killed: {reason}" in line for line in run.journal())
    assert run.supervisor_pid() == supervisor
    assert watcher.returncode == ExitCode.HOST_OOM, out
    assert reason in out.splitlines()[-2]


@needs_the_log
def test_a_neighbour_that_is_taken_is_not_the_trainer(memory_cgroup, start_run):
    cgroup = memory_cgroup(LIMIT)
    run = start_run(inside=cgroup.inside)
    run.order("s")
    run.wait_for_journal("training fake")
    neighbour = subprocess.run(cgroup.inside(sys.executable, "-c", GROW, str(ROOT)))
    assert neighbour.returncode == -signal.SIGKILL
    run.wait_for_journal("of this run's cgroup; the training process lives")
    run.order("k")
    state = run.wait_for_end()
    assert (state.status, state.oom_killed) == ("killed", False)
    assert "not this process: a person or a batch system did it" in state.status_reason


def test_a_kill_that_nobody_watched(memory_cgroup, start_run):
    cgroup = memory_cgroup(LIMIT)
    run = start_run(restarts=1, inside=cgroup.inside)
    run.order("ss")
    run.wait_for_journal("training fake")
    wait_until(lambda: len(list(recorded_ranks(run.directory))) == 2, "two recorded steps")
    trainer = run.directory.state().pid
    unwatched(run)
    run.order("g")
    wait_until(lambda: not os.path.exists(f"/proc/{trainer}/fd"), "the trainer's end")
    run.launch()
    run.wait_for_journal("restart 1 of 1, memory ran out: micro-batch 16 -> 8")
    assert any("OOM killer" in line and at_limit(cgroup) in line for line in run.journal())
    run.order("se")
    assert run.wait_for_end().status == "finished"


@needs_the_log
def test_it_takes_the_supervisor(memory_cgroup, start_run):
    cgroup = memory_cgroup(LIMIT)
    run = start_run(inside=cgroup.inside)
    run.order("s")
    run.wait_for_journal("training fake")
    supervisor = run.supervisor_pid()
    Path(f"/proc/{supervisor}/oom_score_adj").write_text("1000")  # as no memdash would have it
    Path(f"/proc/{run.directory.state().pid}/oom_score_adj").write_text("0")
    run.order("g")
    wait_until(lambda: not is_supervised(run.directory), "the supervisor's end")
    run.launch()
    state = run.wait_for_end()
    assert any(f"pid {supervisor}, was killed by the kernel's OOM killer" in line for line in run.journal())
    assert (state.status, state.oom_killed, outcome_exit_code(state)) == ("killed", True, ExitCode.HOST_OOM)


def test_one_kill_that_takes_the_supervisor_too(memory_cgroup, start_run):
    cgroup = memory_cgroup(LIMIT)
    if cgroup.level.version == 1:
        pytest.skip("memory.oom.group is v2's: tests/on_cgroup_v2.py brings one")
    (cgroup.inner / "memory.oom.group").write_text("1")  # as Kubernetes does
    run = start_run(inside=cgroup.inside)
    run.wait_for_journal("ends everything there, the supervisor too")
    run.order("s")
    run.wait_for_journal("training fake")
    run.order("g")
    wait_until(lambda: not is_supervised(run.directory), "the supervisor's end")
    run.launch()
    state = run.wait_for_end()
    assert (state.status, state.oom_killed, outcome_exit_code(state)) == ("killed", True, ExitCode.HOST_OOM)
    assert at_limit(cgroup) in state.status_reason

"""A wall budget: warned of early, saved and stopped before it is over, and an exit code that says so."""

from __future__ import annotations

from memdash.errors import ExitCode
from memdash.supervisor.policy import SAVE_MARGIN_S
from memdash.supervisor.run_state import outcome_exit_code
from tests.conftest import wait_until


def test_saved_and_stopped_before_the_budget_is_over(start_run):
    run = start_run(wall_s=SAVE_MARGIN_S + 3)
    wait_until(lambda: "training fake" in " ".join(run.journal()), "the rank")
    run.order("s" * 30)
    state = run.wait_for_end()
    assert (state.status, state.status_reason) == ("stopped", "the wall budget is used up")
    assert state.num_checkpoints == 1
    assert outcome_exit_code(state) == ExitCode.OUT_OF_TIME
    assert state.ended_s - state.started_s < SAVE_MARGIN_S + 3
    assert any("budget: the wall budget of 23s is used up" in line for line in run.journal())


def test_a_run_that_cannot_be_saved_is_not_stopped(start_run):
    run = start_run("--failing-save", wall_s=SAVE_MARGIN_S + 1)
    run.wait_for_journal("the wall budget of 21s is used up")
    run.wait_for_journal("not stopped")
    wait_until(lambda: run.directory.state().status == "running", "the run to go on")
    assert run.directory.state().num_checkpoints == 0


def test_a_run_that_will_not_finish_in_time_is_warned_of(start_run):
    run = start_run("--total-steps", "1000000", wall_s=600)
    wait_until(lambda: "training fake" in " ".join(run.journal()), "the rank")
    run.order("s" * 30)
    run.wait_for_journal("will not finish in its wall budget of 10m00s")
    assert run.status() == "running"

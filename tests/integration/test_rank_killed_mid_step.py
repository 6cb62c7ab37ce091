"""However a training process ends, the run says how."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from memdash.errors import ExitCode
from memdash.supervisor.run_state import outcome_exit_code

KILLED = "killed by SIGKILL, and the kernel counted no OOM kill: a person or a batch system did it"


@pytest.mark.parametrize(
    ("orders", "status", "reason", "code"),
    [
        ("sse", "finished", "", ExitCode.OK),
        ("ssk", "killed", KILLED, ExitCode.KILLED),
        ("ssx", "failed", "ZeroDivisionError: as the test asked", ExitCode.FAILED),
        ("soO", "oom", "one example does not fit", ExitCode.OUT_OF_MEMORY),
    ],
)
def test_the_verdict(start_run, orders, status, reason, code):
    run = start_run()
    run.order(orders)
    state = run.wait_for_end()
    assert (state.status, state.status_reason) == (status, reason)
    assert outcome_exit_code(state) == code


def test_a_program_that_is_not_there(start_run):
    run = start_run(argv=[sys.executable, "-c", "raise SystemExit(3)"])
    state = run.wait_for_end()
    assert (state.status, state.status_reason) == ("failed", "exit code 3")


def test_the_supervisor_stops_the_run_well_when_it_is_told_to_end(start_run):
    run = start_run()
    run.order("sss")
    run.wait_for_journal("training fake")
    os.kill(run.supervisor_pid(), signal.SIGTERM)
    state = run.wait_for_end()
    assert (state.status, state.num_checkpoints) == ("stopped", 1)

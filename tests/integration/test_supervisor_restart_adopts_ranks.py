"""kill -9 of the supervisor: the rank trains on, and a new supervisor takes it over."""

from __future__ import annotations

import os
import signal

from memdash import wire
from memdash.locations import socket_path
from memdash.supervisor.launch import launch_supervisor, listening
from tests.conftest import wait_until


async def test_adoption(start_run, watch):
    run = start_run()
    before = await watch(run)
    await before.state(lambda state: state.linked, "the rank's connection")
    run.order("sss")
    await before.state(lambda state: state.step == 3, "step 3")
    os.kill(run.supervisor_pid(), signal.SIGKILL)
    wait_until(lambda: not listening(socket_path(run.run_id)), "the supervisor to be gone")
    run.order("ssss")  # nobody listens; the samples wait in the rank's outbox
    launch_supervisor(run.directory)
    after = await watch(run)
    state = await after.state(lambda state: state.step == 7, "the steps of the time without a supervisor")
    assert state.linked
    assert state.dropped_samples == 0
    assert any("adopted" in line for line in run.journal())
    run.order("se")
    state = run.wait_for_end()
    assert (state.status, state.step) == ("finished", 8)


async def test_a_rank_that_ended_unseen_is_lost(start_run, watch):
    run = start_run()
    watcher = await watch(run)
    state = await watcher.state(lambda state: state.linked, "the rank's connection")
    os.kill(run.supervisor_pid(), signal.SIGKILL)
    os.kill(state.pid, signal.SIGKILL)
    wait_until(lambda: not listening(socket_path(run.run_id)), "the supervisor to be gone")
    wait_until(lambda: not os.path.exists(f"/proc/{state.pid}/fd"), "the rank to be gone")
    launch_supervisor(run.directory)
    again = await watch(run)
    lost = await again.state(lambda state: state.status in wire.FINAL_STATUSES, "the end")
    assert lost.status == "lost"

"""A run that has ended can be launched once more: same id, same record, next attempt."""

from __future__ import annotations

import pytest

from memdash import wire
from memdash.locations import socket_path
from memdash.store.recorder import recorded_ranks
from memdash.supervisor.launch import launch_supervisor, listening
from tests.conftest import wait_until


async def test_the_next_attempt(start_run, watch):
    run = start_run()
    first = await watch(run)
    await first.state(lambda state: state.linked, "the first attempt's rank")
    run.order("sss")
    await first.state(lambda state: state.step == 3, "step 3")
    await first.client.close()
    run.order("k")
    killed = run.wait_for_end()
    assert killed.status == "killed"
    took_s = killed.ended_s - killed.started_s
    wait_until(lambda: not listening(socket_path(run.run_id)), "the supervisor to leave")
    launch_supervisor(run.directory, ["--resume", "somewhere"])
    watcher = await watch(run)
    state = await watcher.state(lambda state: state.linked, "the second attempt's rank")
    assert (state.attempt, state.status, state.exit_code, state.ended_s) == (1, "running", None, None)
    assert state.past_s == pytest.approx(took_s)
    run.order("se")
    state = run.wait_for_end()
    assert (state.attempt, state.status) == (1, "finished")
    assert "resuming from somewhere" in run.directory.output.read_text()
    attempts = [int(row["attempt"]) for _, row in recorded_ranks(run.directory) if row["loss"] is not None]
    assert attempts == [0, 0, 0, 1]
    assert any("attempt 1 started: --resume somewhere" in line for line in run.journal())


async def test_a_rank_of_an_attempt_that_is_over_is_turned_away(start_run, watch):
    run = start_run()
    run.order("k")
    run.wait_for_end()
    wait_until(lambda: not listening(socket_path(run.run_id)), "the supervisor to leave")
    launch_supervisor(run.directory, ["--resume", "x"])
    watcher = await watch(run)
    await watcher.state(lambda state: state.linked, "the second attempt's rank")
    from memdash.agent.link import Link

    hello = wire.Hello(role="rank", protocol_version=wire.PROTOCOL_VERSION, run_id=run.run_id, pid=1, attempt=0)
    old = Link(str(socket_path(run.run_id)), lambda: [hello])
    old.start()
    wait_until(lambda: old.refused, "the refusal")
    assert old.refused == "attempt 0 is over; this is attempt 1"
    old.close()


def test_looking_at_a_finished_run_starts_nothing(start_run):
    run = start_run()
    run.order("se")
    run.wait_for_end()
    wait_until(lambda: not listening(socket_path(run.run_id)), "the supervisor to leave")
    launch_supervisor(run.directory)
    state = run.directory.state()
    assert (state.attempt, state.status) == (0, "finished")
    with pytest.raises(AssertionError):
        wait_until(lambda: run.directory.state().status != "finished", "never", timeout_s=0.5)


async def test_a_failed_run_is_restarted_smaller_where_memory_was_the_killer(start_run, watch):
    run = start_run(restarts=2)
    watcher = await watch(run)
    await watcher.state(lambda state: state.linked, "the first attempt's rank")
    run.order("ssO")  # out of memory at 16 x 1
    state = await watcher.state(lambda state: state.attempt == 1 and state.linked, "the second attempt's rank")
    assert (state.status, state.micro_batch, state.num_restarts) == ("running", 8, 1)
    run.order("sx")  # an error of its own: the split stays what the script starts with
    state = await watcher.state(lambda state: state.attempt == 2 and state.linked, "the third attempt's rank")
    assert state.num_restarts == 2
    run.order("sx")
    state = run.wait_for_end()
    assert (state.status, state.attempt) == ("failed", 2)
    assert any("not restarted: 2 of 2 restarts are used" in line for line in run.journal())
    finals = [m for m in watcher.seen if isinstance(m, wire.RunState) and m.status in wire.FINAL_STATUSES]
    assert finals == []  # nobody was told that the run was over while it was not

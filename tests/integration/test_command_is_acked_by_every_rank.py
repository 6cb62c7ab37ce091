"""A command goes down to the rank at its step boundary, and its one answer comes back to whoever asked."""

from __future__ import annotations

import asyncio

import pytest

from memdash import wire
from memdash.client import Client, new_command_id

ANSWER_S = 20.0


async def ask(client: Client, command: type, **fields: object) -> wire.CommandResult:
    return await client.request(command(command_id=new_command_id(), **fields), timeout_s=ANSWER_S)


@pytest.fixture
async def linked(start_run, watch):
    """A run whose rank is connected, its watcher, and a connection for commands."""
    run = start_run()
    watcher = await watch(run)
    await watcher.state(lambda state: state.linked, "the rank's connection")
    asker = await Client.connect(run.run_id, follow=False)
    yield run, watcher, asker
    await asker.close()


async def test_pause_holds_and_resume_goes_on(linked):
    run, watcher, asker = linked
    run.order("ss")
    await watcher.state(lambda state: state.step == 2, "step 2")
    paused = await ask(asker, wire.Pause)
    assert (paused.ok, paused.applied_at_step) == (True, 2)
    await watcher.state(lambda state: state.status == "paused", "paused")
    run.order("sss")  # waits in the FIFO: a paused rank takes no step
    again = await ask(asker, wire.Pause)
    assert (again.ok, again.text) == (False, "already paused")
    assert run.directory.state().step == 2
    resumed = await ask(asker, wire.Resume)
    assert (resumed.ok, resumed.applied_at_step) == (True, 2)
    state = await watcher.state(lambda state: state.step == 5, "step 5")
    assert state.status == "running"
    assert state.paused_s > 0


async def test_split_changes_and_global_batch_stays(linked):
    run, watcher, asker = linked
    run.order("s")
    await watcher.state(lambda state: state.step == 1, "step 1")
    answer = await ask(asker, wire.SetBatchSplit, micro_batch=4)
    assert (answer.ok, answer.text, answer.applied_at_step) == (True, "4 x 4 = 16", 1)
    run.order("s")
    report = await watcher.until(lambda m: isinstance(m, wire.StepReport) and m.step == 2, "step 2")
    assert (report.micro_batch, report.grad_accum_steps) == (4, 4)
    state = await watcher.state(lambda state: state.step == 2, "step 2")
    assert (state.global_batch, state.micro_batch, state.grad_accum_steps) == (16, 4, 4)


async def test_a_split_that_cannot_be_is_refused_before_the_rank_sees_it(linked):
    run, _, asker = linked
    answer = await ask(asker, wire.SetBatchSplit, micro_batch=17)
    assert not answer.ok
    assert "micro_batch=17 is not between 1 and 16" in answer.text
    assert any("SetBatchSplit refused" in line for line in run.journal())


async def test_checkpoint_and_cache(linked):
    run, watcher, asker = linked
    saved = await ask(asker, wire.SaveCheckpoint, kind="light")
    assert (saved.ok, saved.text) == (True, "light checkpoint of 1.00 MiB")
    state = await watcher.state(lambda state: state.num_checkpoints == 1, "a checkpoint")
    assert state.last_checkpoint == "/nowhere/step-0"
    assert (await ask(asker, wire.EmptyCache)).text == "gave back 0 B"
    assert any(line.startswith("checkpoint: light checkpoint of 1.00 MiB") for line in run.journal())


async def test_stop_saves_first_and_the_outcome_is_stopped(linked):
    run, watcher, asker = linked
    run.order("sss")
    await watcher.state(lambda state: state.step == 3, "step 3")
    answer = await ask(asker, wire.Stop, save="full")
    assert answer.ok
    assert "full checkpoint" in answer.text
    state = run.wait_for_end()
    assert (state.status, state.exit_code, state.num_checkpoints) == ("stopped", 10, 1)
    late = await ask(asker, wire.Pause)
    assert (late.ok, late.text) == (False, "the run is over: stopped")


async def test_stop_does_not_stop_when_saving_fails(start_run, watch):
    run = start_run("--failing-save")
    watcher = await watch(run)
    await watcher.state(lambda state: state.linked, "the rank's connection")
    asker = await Client.connect(run.run_id, follow=False)
    answer = await ask(asker, wire.Stop, save="full")
    assert not answer.ok
    assert "not stopped" in answer.text
    assert "No space left" in answer.text
    run.order("s")
    state = await watcher.state(lambda state: state.step == 1, "a step after the failed stop")
    assert state.status == "running"
    assert (await ask(asker, wire.Stop, save="none")).ok
    assert run.wait_for_end().status == "stopped"
    await asker.close()


async def test_what_a_script_cannot_do_is_refused_with_the_reason(start_run, watch):
    run = start_run("--no-batch")
    watcher = await watch(run)
    state = await watcher.state(lambda state: state.linked, "the rank's connection")
    assert state.capabilities["SetBatchSplit"] == "this script does not offer SetBatchSplit"
    asker = await Client.connect(run.run_id, follow=False)
    answer = await ask(asker, wire.SetBatchSplit, micro_batch=8)
    assert (answer.ok, answer.text) == (False, "this script does not offer SetBatchSplit")
    await asker.close()


async def test_a_rank_that_dies_answers_for_its_commands(linked):
    run, watcher, asker = linked
    run.order("k")
    run.wait_for_end()
    answer = await ask(asker, wire.Pause)
    assert not answer.ok


async def test_a_rank_that_never_connects_is_stopped_by_signal(start_run):
    run = start_run("--mute")
    asker = await Client.connect(run.run_id, follow=False)
    refused = await ask(asker, wire.Pause)
    assert (refused.ok, refused.text) == (False, "the training process is not connected yet")
    answer = await ask(asker, wire.Stop, save="none")
    assert (answer.ok, answer.text) == (True, "the training process was asked to end by SIGTERM")
    state = await asyncio.to_thread(run.wait_for_end)
    assert (state.status, state.exit_code) == ("stopped", -15)
    await asker.close()

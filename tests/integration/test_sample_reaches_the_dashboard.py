"""A step in the training process arrives at every dashboard, live and after the fact."""

from __future__ import annotations

from memdash import wire
from memdash.store.recorder import recorded_hosts, recorded_ranks
from tests.conftest import wait_until


async def test_step_and_host_samples_arrive(start_run, watch):
    run = start_run()
    watcher = await watch(run)
    await watcher.state(lambda state: state.linked, "the rank's connection")
    run.order("sss")
    report = await watcher.until(lambda m: isinstance(m, wire.StepReport) and m.step == 3, "step 3")
    assert report.memory.kind == "simulated"
    assert report.memory.peak_allocated_bytes == 84 << 20
    host = await watcher.until(lambda m: isinstance(m, wire.HostSample), "a host sample")
    assert host.host.process_bytes > 5 << 20
    assert 0 < host.host.working_set_bytes < host.host.capacity_bytes
    state = await watcher.state(lambda state: state.step == 3, "a state at step 3")
    assert (state.loss, state.first_loss) == (5 / 3, 5.0)
    assert wire.device_headroom_bytes(state.memory) == (128 - 84) << 20


async def test_a_dashboard_that_comes_late_sees_everything(start_run, watch):
    run = start_run()
    first = await watch(run)
    await first.state(lambda state: state.linked, "the rank's connection")
    run.order("s" * 50)
    await first.until(lambda m: isinstance(m, wire.StepReport) and m.step == 50, "step 50")
    late = await watch(run)
    await late.until(lambda m: isinstance(m, wire.Backfilled), "the end of the history")
    losses = [m for m in late.seen if isinstance(m, wire.SeriesHistory) and m.series == "loss"]
    assert max(max(m.maximum) for m in losses) == 5.0
    assert min(min(m.minimum) for m in losses) == 5.0 / 50
    assert any(isinstance(m, wire.JournalEntry) and "training process started" in m.text for m in late.seen)


async def test_two_dashboards_agree(start_run, watch):
    run = start_run()
    one, two = await watch(run), await watch(run)
    await one.state(lambda state: state.linked, "the rank's connection")
    run.order("sssss")
    states = [await w.state(lambda state: state.step == 5, "step 5") for w in (one, two)]
    assert states[0] == states[1]


async def test_the_record_holds_every_sample_and_survives_the_end(start_run, watch):
    run = start_run()
    watcher = await watch(run)
    await watcher.state(lambda state: state.linked, "the rank's connection")
    run.order("s" * 20)
    await watcher.state(lambda state: state.step == 20, "step 20")
    run.order("e")
    state = run.wait_for_end()
    assert (state.status, state.exit_code) == ("finished", 0)
    steps = [int(row["step"]) for _, row in recorded_ranks(run.directory) if row["loss"] is not None]
    assert steps == list(range(1, 21))
    assert list(recorded_hosts(run.directory))
    assert (await watcher.state(lambda s: s.status == "finished", "the end")).exit_code == 0


async def test_a_finished_run_can_be_looked_at(start_run, watch):
    from memdash.locations import socket_path
    from memdash.supervisor.launch import launch_supervisor, listening

    run = start_run()
    run.order("sssse")
    run.wait_for_end()
    wait_until(lambda: not listening(socket_path(run.run_id)), "the supervisor to leave")
    launch_supervisor(run.directory)
    watcher = await watch(run)
    await watcher.until(lambda m: isinstance(m, wire.Backfilled), "the end of the history")
    states = [m for m in watcher.seen if isinstance(m, wire.RunState)]
    assert states[0].status == "finished"
    assert states[0].step == 4
    assert any(isinstance(m, wire.SeriesHistory) and m.series == "device.0.peak" for m in watcher.seen)


async def test_a_plan_that_was_made_before_the_start_is_told(start_run, watch):
    run = start_run()
    split = wire.PlannedSplit(micro_batch=8, worst_bytes=1, usual_bytes=1, verdict="fits")
    plan = wire.RunPlan(
        made_s=1.0, headline="plan: fits", micro_batch=8, capacity_bytes=2, source="here", splits=[split]
    )
    run.directory.write_plan(plan)
    watcher = await watch(run)
    assert await watcher.until(lambda m: isinstance(m, wire.RunPlan), "the plan") == plan

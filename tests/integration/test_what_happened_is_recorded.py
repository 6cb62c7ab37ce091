"""What a person does to a run is in the record of its states, and samples alone are not."""

from __future__ import annotations

import msgspec

from memdash import wire
from memdash.client import new_command_id
from memdash.store.moments import Moment
from tests.conftest import wait_until


def recorded(run) -> list[wire.RunState]:
    decoder = msgspec.json.Decoder(Moment)
    return [decoder.decode(line).state for line in run.directory.states.read_bytes().splitlines()]


async def test_states(start_run, watch):
    run = start_run()
    watcher = await watch(run)
    await watcher.state(lambda state: state.linked and state.status == "running", "the training's start")
    run.order("s" * 200)
    await watcher.state(lambda state: state.step == 200, "200 steps")
    steps_alone = len(recorded(run))
    assert steps_alone < 10
    await watcher.client.request(wire.Pause(command_id=new_command_id()), timeout_s=20)
    await watcher.client.request(wire.Resume(command_id=new_command_id()), timeout_s=20)
    run.order("e")
    last = run.wait_for_end()
    wait_until(lambda: recorded(run)[-1].status == "finished", "the last state")
    states = recorded(run)
    statuses = [state.status for state in states]
    assert [status for status, after in zip(statuses, [*statuses[1:], ""], strict=True) if status != after] == [
        "starting",
        "running",
        "pausing",
        "paused",
        "running",
        "finished",
    ]
    assert msgspec.structs.replace(states[-1], heard_s=last.heard_s, sampled_s=last.sampled_s) == last
    assert next(state for state in states if state.status == "paused").step == 200

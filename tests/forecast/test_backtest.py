"""A recorded run is forecast as it was when it ran: the same questions, at the same times, of each attempt anew."""

from __future__ import annotations

import msgspec
import pytest

from memdash import wire
from memdash.forecast.backtest import alerts, replay

MIB = 1 << 20
STATE = wire.RunState(
    run_id="r", name="r", status="running", phase="training", started_s=1000.0, global_batch=8, step_time_s=0.5
)


def host(time_s: float, used: float) -> wire.HostSample:
    memory = wire.HostMemory(
        kind="exact", process_bytes=int(used * MIB), num_processes=1, working_set_bytes=int(used * MIB),
        peak_working_set_bytes=int(used * MIB), capacity_bytes=1000 * MIB, capacity_source="memory.max",
    )  # fmt: skip
    return wire.HostSample(time_s=time_s, host=memory)


def recorded(curve, seconds: float, *, attempt: int = 0, began_s: float = 1000.0):
    for number in range(1, int(seconds * 2)):
        state = msgspec.structs.replace(STATE, attempt=attempt, started_s=began_s, step=number)
        yield host(began_s + number / 2, curve(number / 2)), state


CASES = {
    "flat": (lambda t: 500.0, []),
    "noise": (lambda t: 500.0 + (t * 7919 % 13), []),
    "a leak": (lambda t: 300 + 3 * t, ["warning", "critical"]),
    "a leak that stops": (lambda t: 300 + 3 * min(t, 100.0), ["warning", "ok"]),
}


@pytest.mark.parametrize(("curve", "levels"), CASES.values(), ids=CASES.keys())
def test_alerts_come_where_the_level_changes(curve, levels):
    found = alerts(replay(recorded(curve, 220)))
    assert [alert.level for alert in found if alert.level != "watch"] == levels


def test_an_alert_says_when_at_which_step_and_why():
    (first, *_) = alerts(replay(recorded(lambda t: 300 + 3 * t, 220)))
    assert first.outlook.where == "host"
    assert first.headline == first.outlook.text
    left_s = 1000 + 700 / 3 - first.time_s
    assert first.outlook.in_low_s - 1 <= left_s <= first.outlook.in_high_s + 1
    assert first.step == pytest.approx(2 * (first.time_s - 1000))


def test_it_is_asked_once_a_second_of_the_record():
    said = list(replay(recorded(lambda t: 500.0, 60)))
    assert len(said) == pytest.approx(60, abs=1)
    assert len(list(replay(recorded(lambda t: 500.0, 60), every_s=10.0))) == pytest.approx(6, abs=1)


def test_another_attempt_has_another_floor():
    """The second one starts where the first had begun: what was learnt of the first is no ground to speak."""
    first = list(recorded(lambda t: 300 + 2 * t, 100))
    second = list(recorded(lambda t: 300.0, 60, attempt=1, began_s=1200.0))
    said = list(replay([*first, *second]))
    assert {each.forecast.level for each in said if each.state.attempt == 1} == {"ok"}
    assert [(alert.attempt, alert.level) for alert in alerts(said)][-1] == (1, "ok")


def test_what_is_over_is_not_forecast():
    ended = ((message, msgspec.structs.replace(state, status="killed")) for message, state in recorded(lambda t: 9, 30))
    assert list(replay(ended)) == []


def test_coming_steps_are_looked_at():
    memory = wire.DeviceMemory(device="d", kind="simulated", capacity_bytes=100 * MIB, allocated_bytes=10 * MIB)
    messages = []
    for number in range(1, 41):
        longest = 10 + number % 13
        peak = msgspec.structs.replace(memory, peak_allocated_bytes=(10 + longest) * MIB)
        report = wire.StepReport(
            rank=0, seq=number, time_s=1000 + number / 2, step=number, epoch=0, examples_seen=0, micro_batch=8,
            grad_accum_steps=1, step_time_s=0.5, loss=None, longest=longest, memory=peak,
        )  # fmt: skip
        messages.append((report, msgspec.structs.replace(STATE, step=number, micro_batch=8)))
    coming = wire.ComingGroups(rank=0, time_s=1000, through_step=99, steps=[1, 77], longest=[23, 300], examples=[3, 4])
    found = alerts(replay([(coming, STATE), *messages]))
    assert [alert.outlook.step for alert in found if alert.outlook] == [77] * len(found)
    assert "critical" in [alert.level for alert in found] or "warning" in [alert.level for alert in found]

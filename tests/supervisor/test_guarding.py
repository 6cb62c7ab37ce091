"""What the guard does about which forecast, and that it does not do it twice."""

from __future__ import annotations

import pytest

from memdash import wire
from memdash.config import GuardSection
from memdash.supervisor.control import describe
from memdash.supervisor.guarding import command, measures

STATE = wire.RunState(
    run_id="r", name="r", status="running", global_batch=16, micro_batch=8, capabilities={"CapStep": ""}
)
PROTECT = GuardSection(mode="protect", on_warning="full", on_critical="stop")


def misfit(level: wire.Risk = "warning", fitting: int | None = 2) -> wire.Outlook:
    return wire.Outlook(
        where="device",
        kind="lookahead",
        level=level,
        text="step 812 will not fit",
        step=812,
        fitting_micro_batch=fitting,
    )


def trend(level: wire.Risk, where="host") -> wire.Outlook:
    return wire.Outlook(where=where, kind="trend", level=level, text=f"{where} memory full")


SEGMENT = wire.Outlook(where="device", kind="segment", level="critical", text="the next segment will not fit")


def decided(*outlooks: wire.Outlook, rules=PROTECT, state=STATE, done=None, now_s=1000.0, cooldown_s=60.0):
    forecast = wire.Forecast(time_s=1.0, level=outlooks[0].level, outlooks=list(outlooks))
    return [
        describe(command(each, "c"), state) for each in measures(forecast, state, rules, done or {}, now_s, cooldown_s)
    ]


@pytest.mark.parametrize(
    ("outlook", "rules", "done"),
    [
        (misfit(), PROTECT, ["step 812 at micro-batch 2"]),
        (misfit("watch"), PROTECT, ["step 812 at micro-batch 2"]),
        (misfit(fitting=None), PROTECT, ["step 812 at micro-batch 1"]),
        (misfit(), GuardSection(), []),
        (trend("watch"), PROTECT, []),
        (SEGMENT, PROTECT, ["stop after a full checkpoint"]),
        (trend("warning"), PROTECT, ["full checkpoint"]),
        (trend("critical"), PROTECT, ["stop after a full checkpoint"]),
        (trend("critical"), GuardSection(mode="protect", on_critical="pause"), ["pause"]),
        (trend("critical"), GuardSection(mode="protect", on_critical="notify"), []),
        (trend("critical"), GuardSection(), []),
        (wire.Outlook(where="time", kind="budget", level="watch", text="short"), PROTECT, []),
    ],
)
def test_each_forecast_has_its_answer(outlook, rules, done):
    assert decided(outlook, rules=rules) == done


def test_several_at_once():
    assert decided(trend("warning"), misfit(), trend("critical", "device")) == [
        "full checkpoint",
        "step 812 at micro-batch 2",
        "stop after a full checkpoint",
    ]


@pytest.mark.parametrize("status", ["paused", "stopping", "finished"])
def test_a_run_that_does_not_train_is_left_alone(status):
    state = wire.RunState(run_id="r", name="r", status=status, micro_batch=8, capabilities={"CapStep": ""})
    assert decided(misfit(), state=state) == []


def test_a_script_that_cannot_cap_a_step_and_a_size_that_is_small_already():
    assert decided(misfit(), state=wire.RunState(run_id="r", name="r", status="running", micro_batch=8)) == []
    small = wire.RunState(run_id="r", name="r", status="running", micro_batch=2, capabilities={"CapStep": ""})
    assert decided(misfit(), state=small) == []


def test_nothing_is_done_twice_before_the_cooldown_is_over():
    forecast = wire.Forecast(time_s=1.0, level="warning", outlooks=[trend("warning")])
    (measure,) = measures(forecast, STATE, PROTECT, {}, 1000.0, 60.0)
    done = {measure.key: 1000.0}
    assert decided(trend("warning"), done=done, now_s=1059.0) == []
    assert decided(trend("critical"), done=done, now_s=1059.0) == ["stop after a full checkpoint"]
    assert decided(trend("warning"), done=done, now_s=1060.0) == ["full checkpoint"]


def test_each_measure_is_a_command():
    def of(*outlooks, rules=PROTECT):
        forecast = wire.Forecast(time_s=1.0, level="warning", outlooks=list(outlooks))
        return [command(each, "x") for each in measures(forecast, STATE, rules, {}, 0.0, 60.0)]

    assert of(misfit()) == [wire.CapStep(command_id="x", step=812, micro_batch=2)]
    assert of(trend("warning")) == [wire.SaveCheckpoint(command_id="x", kind="full", reason="guard")]
    assert of(trend("critical")) == [wire.Stop(command_id="x", save="full")]
    gentle = GuardSection(mode="protect", on_warning="light", on_critical="pause")
    assert of(trend("warning"), rules=gentle) == [wire.SaveCheckpoint(command_id="x", kind="light", reason="guard")]
    assert of(trend("critical"), rules=gentle) == [wire.Pause(command_id="x")]

"""Whole forecasts from written histories: what is said, how urgent it is, and that it does not flicker."""

from __future__ import annotations

import msgspec
import pytest

from memdash import wire
from memdash.forecast.forecaster import Forecaster
from memdash.forecast.outlooks import span_words
from memdash.forecast.risk import CALM_S

MIB = 1 << 20
STATE = wire.RunState(
    run_id="r",
    name="r",
    status="running",
    phase="training",
    started_s=1000.0,
    total_steps=5000,
    global_batch=16,
    micro_batch=8,
    step_time_s=0.5,
    eta_s=2500.0,
)


class Run:
    """Half a second a step."""

    def __init__(self, wall_s: float = 0.0) -> None:
        self.forecaster = Forecaster(wall_s)
        self.state = STATE
        self.levels: list[str] = []

    def go(
        self,
        steps: int,
        *,
        host=lambda t: 500.0,
        others=lambda t: 0.0,
        device=lambda n: 40.0,
        longest=lambda n: 16 + n * 7 % 128,
    ) -> None:
        """Host and device floors in MiB; what others have of the host comes on top of it."""
        for number in range(self.state.step + 1, self.state.step + steps + 1):
            time_s = 1000 + number * 0.5
            self.state = msgspec.structs.replace(self.state, step=number)
            self.forecaster.step(self.report(number, time_s, device(number), longest(number)), self.state)
            self.forecaster.host(self.sample(time_s, host(number * 0.5), others(number * 0.5)), self.state)
            if number % 2 == 0:
                self.levels.append(self.now().level)

    def now(self) -> wire.Forecast:
        return self.forecaster.forecast(self.state, 1000 + self.state.step * 0.5)

    @staticmethod
    def report(number: int, time_s: float, floor: float, longest: int) -> wire.StepReport:
        memory = wire.DeviceMemory(
            device="simulated",
            kind="simulated",
            capacity_bytes=512 * MIB,
            allocated_bytes=int(floor * MIB),
            peak_allocated_bytes=int(floor * MIB) + 8 * longest * 9000 + 8 * longest**2 * 100,
        )
        return wire.StepReport(
            rank=0, seq=number, time_s=time_s, step=number, epoch=0, examples_seen=0, micro_batch=8, grad_accum_steps=2,
            step_time_s=0.5, loss=1.0, longest=longest, memory=memory,
        )  # fmt: skip

    @staticmethod
    def sample(time_s: float, used: float, others: float = 0.0) -> wire.HostSample:
        host = wire.HostMemory(
            kind="exact", process_bytes=int(used * MIB), num_processes=1,
            working_set_bytes=int((used + others) * MIB), peak_working_set_bytes=int((used + others + 20) * MIB), capacity_bytes=1024 * MIB, capacity_source="memory.max",
        )  # fmt: skip
        return wire.HostSample(time_s=time_s, host=host)


def test_a_healthy_run_is_told_nothing():
    run = Run()
    run.go(800, host=lambda t: 500 + 20 * (t % 30 < 3))
    assert set(run.levels) == {"ok"}
    forecast = run.now()
    assert (forecast.time_s, forecast.level, forecast.headline, forecast.outlooks) == (1400.0, "ok", "", [])


def test_a_host_leak_is_named_with_a_time_that_is_right():
    run = Run()
    run.go(600, host=lambda t: 500 + t)
    forecast = run.now()
    (outlook,) = forecast.outlooks
    assert forecast.level == "warning"
    assert outlook.where == "host"
    assert outlook.in_low_s - 1 <= 204 <= outlook.in_high_s + 1  # 1024 - (800 + 20), at 1 MiB a second
    assert outlook.in_s == pytest.approx(204, rel=0.05)
    assert outlook.step == pytest.approx(600 + 408, rel=0.05)
    assert "+60.0 MiB a minute" in outlook.text
    assert "this run grows" in outlook.text
    assert run.levels.index("warning") * 2 < 400  # at 200 s, after 200 of 524 MiB
    run.go(300, host=lambda t: 500 + t)
    assert run.now().level == "critical"


NEIGHBOURS = {
    "this run, half of the way": (1.0, 250, 0.0, "warning", "this run grows"),
    "this run, nearly all of the way": (1.0, 400, 0.0, "warning", "this run grows"),
    "others, half of the way": (0.0, 250, 0.0, "watch", "other processes grew"),
    "others, nearly all of the way": (0.0, 400, 0.0, "warning", "other processes grew"),
    "others, half of the way, and a checkpoint takes all that is left": (0.0, 250, 300.0, "critical", "other processes grew"),
    "mostly this run, half of the way": (0.7, 250, 0.0, "warning", "this run grows"),
    "mostly others, half of the way": (0.3, 250, 0.0, "watch", "other processes grew"),
}  # fmt: skip


@pytest.mark.parametrize(("own", "seconds", "save_s", "level", "words"), NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_growth_of_others_is_watched_before_it_is_believed(own, seconds, save_s, level, words):
    run = Run()
    run.state = msgspec.structs.replace(run.state, longest_save_s=save_s)
    run.go(2 * seconds, host=lambda t: 400 + own * t, others=lambda t: 100 + (1 - own) * t)
    (outlook,) = run.now().outlooks
    assert outlook.level == level
    assert words in outlook.text


def test_growth_of_others_is_theirs_from_the_first_moment():
    """Also where what is theirs and what is the run's own are told apart only roughly."""
    run, said = Run(), []
    for _ in range(120):
        run.go(1, host=lambda t: 400 - 15 * (t % 13), others=lambda t: 8 * t + 15 * (t % 13))
        said += run.now().outlooks
    assert said
    assert {"other processes grew" in outlook.text for outlook in said} == {True}


def test_others_that_stop_half_way_alarm_nobody():
    run = Run()
    run.go(1000, others=lambda t: min(t, 260.0))
    assert set(run.levels) == {"ok", "watch"}


def test_a_device_leak_is_named():
    run = Run()
    run.go(300, device=lambda n: 40 + n)
    (outlook,) = run.now().outlooks
    assert (outlook.where, outlook.kind) == ("device", "trend")
    assert "kept from step to step" in outlook.text
    assert outlook.text.startswith("simulated device memory full in")


def test_the_segment_that_will_not_fit_is_named():
    run = Run()
    for number in range(1, 61):
        gaps = 120 * ((number - 1) // 15)  # three stairs, a minute or less: no line is fitted through them
        report = run.report(number, 1000 + number * 0.5, 40, 16)
        memory = msgspec.structs.replace(
            report.memory,
            reserved_bytes=(60 + gaps) * MIB,
            peak_reserved_bytes=(60 + gaps) * MIB,
            inactive_split_bytes=gaps * MIB,
        )
        run.state = msgspec.structs.replace(run.state, step=number)
        run.forecaster.step(msgspec.structs.replace(report, memory=memory), run.state)
    (outlook,) = [each for each in run.now().outlooks if each.kind == "segment"]
    assert (outlook.where, outlook.level) == ("device", "critical")
    assert outlook.text.startswith(
        "simulated device memory full in 500ms: the next segment of 120 MiB will not fit in the"
    )
    assert "expandable_segments" in outlook.text


def test_what_is_held_grows_by_tensors_or_by_gaps():
    """Both floors rise; whose growth it is decides what is to be done."""
    for tensors, gaps, words in ((1.0, 0.2, "kept from step to step"), (0.1, 1.5, "fragments")):
        run = Run()
        for number in range(1, 250):
            report = run.report(number, 1000 + number * 0.5, 40 + tensors * number, 16)
            memory = msgspec.structs.replace(report.memory, inactive_split_bytes=int(gaps * number * MIB))
            run.state = msgspec.structs.replace(run.state, step=number)
            run.forecaster.step(msgspec.structs.replace(report, memory=memory), run.state)
            said = {outlook.text for outlook in run.now().outlooks if outlook.kind == "trend"}
            assert all(words in text for text in said)
        assert said


def test_over_its_ceiling_it_has_no_time_left_to_tell():
    run = Run()
    run.go(900, host=lambda t: 700 + t)
    assert "host memory is over its ceiling of 1.00 GiB: +60.0 MiB a minute" in run.now().headline


def test_of_many_ranks_each_is_looked_at_in_its_turn():
    """And one that others slow down is told a time that spans the paces that were seen."""
    run, late = Run(), []
    for number in range(1, 401):
        run.state = msgspec.structs.replace(run.state, step=number)
        time_s = 1000 + number * 0.5 + 0.25 * max(0, number - 300)
        for rank in range(8):
            report = run.report(number, time_s, 40.0 + number * (rank == 5), 64)
            run.forecaster.step(msgspec.structs.replace(report, rank=rank), run.state)
        late.append(run.forecaster.forecast(run.state, time_s).outlooks)
    assert {outlook.rank for outlooks in late for outlook in outlooks} == {5}
    (outlook,) = late[-1]
    left = (512 - 440 - 9) / 1.0
    assert outlook.in_low_s <= left * 0.5 * 1.1
    assert outlook.in_high_s >= left * 0.75 * 0.9


def test_the_step_that_will_not_fit_is_named_before_it_comes():
    run = Run()
    coming = wire.ComingGroups(
        rank=0, time_s=1000, through_step=5000, steps=[7, 812], longest=[140, 900], examples=[5, 77]
    )
    run.forecaster.coming(coming)
    run.go(60)
    (outlook,) = run.now().outlooks
    assert (outlook.step, outlook.example, outlook.longest) == (812, 77, 900)
    assert outlook.level == "warning"
    assert outlook.need_bytes == pytest.approx(40 * MIB + 8 * 900 * 9000 + 8 * 900**2 * 100, rel=0.02)
    assert outlook.fitting_micro_batch == 4
    assert outlook.text.startswith("step 812 in 6m16s will not fit: example 77 of length 900 needs")
    assert outlook.text.endswith("of 512 MiB (simulated); micro-batch 4 fits")
    whole = msgspec.structs.replace(run.state, capabilities={"SetBatchSplit": "it trains a step in one slice"})
    (refused,) = run.forecaster.forecast(whole, 1060.0).outlooks
    assert refused.text.endswith("micro-batch 4 fits, but it trains a step in one slice")
    run.forecaster.caps[812] = 4
    assert run.now().level == "ok"
    run.forecaster.caps.clear()
    run.go(652)
    assert run.now().level == "critical"
    run.go(100)
    assert run.now().level == "ok"


def test_a_run_that_ends_before_is_told_nothing():
    run = Run()
    run.state = msgspec.structs.replace(run.state, eta_s=100.0)
    run.go(600, host=lambda t: 500 + t)
    assert set(run.levels[220:]) <= {"ok", "watch"}
    assert run.now().level == "ok"


def test_the_wall_budget():
    run = Run(wall_s=60.0)
    run.go(30)
    (outlook,) = run.now().outlooks
    assert (outlook.where, outlook.level) == ("time", "watch")


def test_a_level_is_left_only_after_a_calm_while():
    run = Run()
    run.go(300, host=lambda t: 500 + 2 * t)
    assert run.levels[-1] == "warning"
    run.go(300, host=lambda t: 800.0)
    after = run.levels[150:]
    calm = after.index("ok")
    assert calm > CALM_S  # two levels a second of which one is asked for
    assert set(after[calm:]) == {"ok"}


def test_a_clock_that_is_put_back_stops_nothing():
    run = Run()
    run.go(300, host=lambda t: 500.0)
    back = Run()
    back.forecaster, back.state = run.forecaster, msgspec.structs.replace(STATE, started_s=1000.0)
    back.state = msgspec.structs.replace(back.state, step=0)
    back.go(500, host=lambda t: 500 + 1.5 * t)
    assert back.levels[-1] in ("warning", "critical")


def test_a_run_that_goes_back_to_a_checkpoint_is_learnt_anew():
    run = Run()
    run.go(400, device=lambda n: 40 + n)
    assert run.now().level == "critical"
    run.forecaster.caps = {350: 4, 600: 4, 200: 2}
    run.state = msgspec.structs.replace(run.state, step=299)
    run.forecaster.step(run.report(300, 1201.0, 40, 16), run.state)
    assert run.forecaster.caps == {200: 2}  # what was asked for the others is forgotten with them
    for number in range(301, 400):
        run.forecaster.step(run.report(number, 1201 + (number - 300) * 0.5, 40, 16), run.state)
    assert run.forecaster.forecast(run.state, 1251.0).level == "ok"


def test_fragments_that_are_joined_are_none_whatever_was_recorded():
    """Records of a supervisor before do not say that the allocator joins them."""
    run = Run()

    def reported(number: int, *, joins: bool) -> None:
        report = run.report(number, 1000 + number * 0.5, 40, 16)
        memory = msgspec.structs.replace(report.memory, inactive_split_bytes=2 * number * MIB, joins_fragments=joins)
        run.state = msgspec.structs.replace(run.state, step=number)
        run.forecaster.step(msgspec.structs.replace(report, memory=memory), run.state)

    for number in range(1, 200):
        reported(number, joins=False)
    assert run.now().level == "critical"
    for number in range(200, 240):
        reported(number, joins=True)
        run.now()
    assert run.now().level == "ok"


def test_time_spent_paused_is_no_time():
    run = Run()
    run.go(300, host=lambda t: 500 + t)
    before = run.now().outlooks[0].in_s
    run.state = msgspec.structs.replace(run.state, phase="paused", paused_since_s=1150.0)
    run.forecaster.host(run.sample(2000.0, 650.0), run.state)
    assert run.forecaster.forecast(run.state, 2000.0).outlooks[0].in_s == pytest.approx(before, rel=0.02)


def test_a_device_without_figures_is_no_trouble():
    run = Run()
    report = msgspec.structs.replace(run.report(1, 1001.0, 40, 16), memory=None)
    run.forecaster.step(report, run.state)
    assert run.now().level == "ok"


GROUNDS = {
    "at the start": (10, {}, ["host memory: too little seen to tell growth from a start; 20s are needed"]),
    "flat": (60, {}, ["host memory: its floor does not rise"]),
    "slow growth": (300, {"host": lambda t: 500 + t / 100}, ["host memory full in", "too far away, or seen for too"]),
    "nothing told": (60, {}, ["steps to come: the script tells no lengths"]),
    "lengths": (60, {"longest": 100}, ["steps to come, to step 500: the longest, in step 90, is example 7 of length 100", "needs"]),
    "few lengths": (3, {"longest": 100}, ["too few different lengths seen to say what it needs"]),
    "trained": (120, {"longest": 100}, ["steps to come: the longest up to step 500 has been trained"]),
    "disk": (60, {"saved": 10}, ["disk: a full checkpoint takes 10.0 MiB, 1.00 GiB are free"]),
}  # fmt: skip


@pytest.mark.parametrize(("steps", "more", "expected"), GROUNDS.values(), ids=GROUNDS)
def test_it_says_why_all_is_well(steps, more, expected):
    run = Run()
    if longest := more.get("longest"):
        run.forecaster.coming(
            wire.ComingGroups(rank=0, time_s=1000, through_step=500, steps=[90], longest=[longest], examples=[7])
        )
    if saved := more.get("saved"):
        run.forecaster.saved(
            wire.CheckpointSaved(
                rank=0, time_s=1.0, step=1, kind="full", path="", size_bytes=saved * MIB, duration_s=1.0
            )
        )
    run.go(steps, **{key: value for key, value in more.items() if key == "host"})
    forecast = run.forecaster.forecast(run.state, run.now().time_s, 1 << 30)
    assert forecast.level == "ok"
    said = "\n".join(forecast.grounds)
    assert [part for part in expected if part not in said] == []


def test_what_is_warned_of_is_not_called_well():
    run = Run()
    run.go(600, host=lambda t: 500 + t)
    assert run.now().level == "warning"
    assert not any(ground.startswith("host") for ground in run.now().grounds)


def test_spans_in_words():
    assert span_words(720, 1140) == "12m00s-19m00s"
    assert span_words(720, float("inf")) == "more than 12m00s"
    assert span_words(60, 60) == "1m00s"


CACHES = {
    "a cache that will be half full at the end of the first epoch": (520, "watch"),
    "growth that goes on in the second": (200, "warning"),
    "growth that would reach the ceiling within the first": (1200, "warning"),
    "growth that would have filled nearly all by its end": (800, "warning"),
    "a loop that tells of no epochs": (0, "warning"),
}


@pytest.mark.parametrize(("epoch_steps", "level"), CACHES.values(), ids=CACHES.keys())
def test_a_first_epoch_may_fill_a_cache(epoch_steps, level):
    """Once every example has come it is full, so growth is believed when that would be too late, or when it goes on."""
    run = Run()
    run.state = msgspec.structs.replace(run.state, steps_per_epoch=epoch_steps)
    run.go(400, host=lambda t: 500 + t)
    assert run.now().level == level


def test_fragmentation_is_told_from_a_leak():
    """What is allocated stays the same; what the allocator holds and cannot give back does not."""
    run = Run()
    for number in range(1, 301):
        time_s = 1000 + number * 0.5
        run.state = msgspec.structs.replace(run.state, step=number)
        report = run.report(number, time_s, 40.0, 64)
        held = msgspec.structs.replace(report.memory, inactive_split_bytes=number * MIB)
        run.forecaster.step(msgspec.structs.replace(report, memory=held), run.state)
    (outlook,) = run.now().outlooks
    assert (outlook.where, outlook.kind, outlook.level) == ("device", "trend", "warning")
    assert outlook.in_s == pytest.approx((512 - 40 - 300) * 0.5, rel=0.05)
    assert "fragments that nothing fits into" in outlook.text

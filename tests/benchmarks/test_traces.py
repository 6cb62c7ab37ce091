"""Traces come back from their files as they were recorded; rules and scores are right where one can tell by hand."""

from __future__ import annotations

import pytest

from benchmarks import _traces
from benchmarks._alarms import Tick, Window, predict_linear
from benchmarks._forecast_score import Score, score
from benchmarks._peers import peers
from benchmarks._traces import Fate, Trace
from memdash import wire

MIB = 1 << 20
DEVICE = wire.DeviceMemory(
    device="simulated", kind="simulated", capacity_bytes=100, allocated_bytes=30, reserved_bytes=50,
    inactive_split_bytes=5, peak_allocated_bytes=60, peak_reserved_bytes=70, num_alloc_retries=1,
)  # fmt: skip


def step(number: int, memory: wire.DeviceMemory | None = None) -> wire.StepReport:
    return wire.StepReport(
        rank=0, seq=number, time_s=1000.5 + number, step=number, epoch=0, examples_seen=0, micro_batch=8,
        grad_accum_steps=1, step_time_s=0.24, loss=None, longest=40 + number, memory=memory,
    )  # fmt: skip


def host(time_s: float, used: int, capacity: int = 1000) -> wire.HostSample:
    memory = wire.HostMemory(
        kind="exact", process_bytes=used, num_processes=2, working_set_bytes=used, peak_working_set_bytes=used + 5,
        capacity_bytes=capacity, capacity_source="memory.max" if used % 2 else "/proc/meminfo",
    )  # fmt: skip
    return wire.HostSample(time_s=1000 + time_s, host=memory)


@pytest.mark.parametrize("memory", [None, DEVICE], ids=["host", "device"])
def test_a_trace_survives_its_file(tmp_path, monkeypatch, memory):
    monkeypatch.setattr(_traces, "CORPUS", tmp_path)
    saved = wire.CheckpointSaved(rank=0, time_s=1000.6, step=0, kind="full", path="", size_bytes=9, duration_s=0.5)
    messages = [host(0.5, 10), saved, host(1.0, 11), step(1, memory), step(2, memory), host(2.74, 13)]
    trace = Trace("x", 1000.0, Fate("host", "killed", 1004.0, 3), messages)
    path = _traces.save(trace, "tuning")
    assert _traces.load(path) == trace
    assert _traces.traces("tuning") == [trace]
    assert trace.seconds == 4


def test_a_window_forgets_and_fits():
    window = Window(10.0)
    for x in range(30):
        window.add(float(x), 100.0 if x < 15 else 3.0 * x)
    line = window.line(31.0)
    assert line.level == pytest.approx(93)
    assert line.slope == pytest.approx(3)
    assert line.r2 == pytest.approx(1)
    assert window.span_s() == 10


def falling(per_s: int, seconds: int) -> Trace:
    samples = [host(index / 2, index * per_s * MIB // 2, 1000 * MIB) for index in range(seconds * 2)]
    return Trace("x", 1000.0, Fate("", "", 1000.0 + seconds, 1), [step(0), *samples])


def test_predict_linear_holds_before_it_fires():
    """A sixtieth of an hour of data, four minutes ahead, five seconds of patience; 5 MiB a second reach 1000 in time."""
    ticks = predict_linear(60.0)(falling(5, 60))
    firing = [tick.time_s - 1000 for tick in ticks if tick.alarms]
    assert 5 <= firing[0] <= 8
    assert firing[-1] >= 58
    assert not any(tick.alarms for tick in predict_linear(60.0)(falling(1, 60)))


TRACES = {
    name: Trace(name, 0.0, Fate(died_of, "", 10.0, 20), [])
    for name, died_of in (("healthy", ""), ("noisy", ""), ("dies", "host"), ("elsewhere", "host"), ("unseen", "device"))
}
ALARMS = {
    "healthy": [],
    "noisy": ["host", "", "host", "host"],
    "dies": ["host", "", "host", "host"],
    "elsewhere": ["", "device", "", "host"],
    "unseen": ["device", "device", "", ""],
}


def test_a_score_by_hand():
    def rule(trace: Trace) -> list[Tick]:
        alarms = ALARMS[trace.name]
        return [Tick(float(at), 2 * at, {where: None} if where else {}) for at, where in enumerate(alarms)]

    result = score(rule, list(TRACES.values()))
    assert [found.trace.name for found in result.found] == ["dies", "elsewhere"]
    assert [trace.name for trace in result.missed] == ["unseen"]  # it was withdrawn before the end
    assert [trace.name for trace in result.false] == ["noisy", "elsewhere"]
    assert (result.precision, result.recall) == (0.5, pytest.approx(2 / 3))
    assert result.lead_s == [0.0, 7.0, 8.0]
    assert result.lead_steps == [0, 14, 16]
    assert result.num_alarms == 2
    assert result.alarms_per_hour == pytest.approx(2 / (20 / 3600))


@pytest.mark.parametrize(("alarms", "hours", "most"), [(0, 30, 0.0999), (0, 3, 0.999), (1, 30, 0.158), (5, 10, 1.05)])
def test_how_often_alarms_may_be_false_though_few_were_seen(alarms, hours, most):
    """Poisson: of no alarm in 30 hours, a rate of 0.1 an hour shows once in twenty times."""
    assert Score(num_alarms=alarms, healthy_s=hours * 3600.0).most_alarms_per_hour == pytest.approx(most, rel=0.01)


def test_a_peer_is_as_careful_as_it_can_be():
    """Growth that stops is no alarm for a rule that holds it for long; the setting is chosen on one half only."""
    stops = falling(5, 40)
    last = [host(40 + index / 2, 400 * MIB // 2, 1000 * MIB) for index in range(240)]
    healthy = Trace("stops", 1000.0, Fate("", "", 1160.0, 1), [*stops.messages, *last])
    leak = falling(5, 190)
    dying = Trace("leak", 1000.0, Fate("host", "", 1190.0, 1), leak.messages)
    found = {peer.name.partition(";")[0]: peer.score for peer in peers([healthy, dying], [dying], 1.0, quick=True)}
    usual, careful = list(found.values())[:2]
    assert usual.recall == careful.recall == 1
    assert usual.lead_s[0] > careful.lead_s[0] > 0


def test_the_splits_have_no_trace_in_common():
    from benchmarks.corpus.splits import SPLIT_OF, SPLITS

    assert len(SPLIT_OF) == sum(len(scenarios) for scenarios in SPLITS.values())
    for split in SPLITS:
        paths = list((_traces.CORPUS / split).glob("*" + _traces.SUFFIX))
        assert len(paths) >= 40
        assert {SPLIT_OF[path.stem.removesuffix(".trace")] for path in paths} == {split}

"""Is the forecast right? Scored on recorded runs, healthy and dying, beside the rules that people use instead of one.

The traces (corpus/) are real processes that really allocated. Only the half that nothing was tuned on is scored; both
peers get the same figures, and of several time scales the one at which they do best on the other half.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from statistics import mean, median

import msgspec

from benchmarks import _alarms
from benchmarks._alarms import Rule, recorded
from benchmarks._forecast_score import Found, Score, score
from benchmarks._table import Row, main, not_measured, row
from benchmarks._traces import Trace, traces
from memdash import wire
from memdash.forecast.forecaster import Forecaster

SCALES = (1.0, 4.0, 10.0, 20.0, 30.0, 60.0, 120.0)
"""Traces of a few minutes stand for runs of hours: the peers' times are divided by one of these."""
QUICK_SCALES = (10.0, 60.0)
SUDDEN = "device-outlier"
"""Traces that one long example ends: nothing rises before it, only the order to come tells."""
COSTLY = "device-graphs-random"
"""A leak, lengths and an order to come: every question is asked."""
RANKS = 8
HOURS, QUICK_HOURS = 12, 2
Peer = tuple[str, Score]


def measure(quick: bool) -> list[Row]:
    """All rows."""
    tuning, scoring = traces("tuning"), traces("scoring")
    ours = score(_alarms.memdash, scoring)
    _say(ours)
    scales = QUICK_SCALES if quick else SCALES
    peers = [
        _peer("predict_linear, for: 5m", _alarms.predict_linear, scales, tuning, scoring),
        _peer("R2 >= 0.7 over 5 min", _alarms.steady_growth, scales, tuning, scoring),
    ]
    rows = [line for peer in peers for line in _against(ours, peer)]
    rows += [*_intervals(ours.found), *_lookahead(ours), *_costs(tuning, QUICK_HOURS if quick else HOURS)]
    no_gpu = not_measured("no GPU where they were recorded")
    return [*rows, row("CUDA traces in the corpus", no_gpu, 0, "none", "ours", ">=", 1)]


def _peer(
    name: str, rule: Callable[[float], Rule], scales: Sequence[float], tuning: Sequence[Trace], scoring: Sequence[Trace]
) -> Peer:
    """At the scale that suits it best, by the traces that ours was tuned on."""
    best = max(scales, key=lambda scale: (score(rule(scale), tuning).f1, scale))
    return f"{name}, times / {best:g}", score(rule(best), scoring)


def _against(ours: Score, peer: Peer) -> Iterator[Row]:
    name, theirs = peer
    deaths, healthy = len(ours.found) + len(ours.missed), f"{ours.healthy_s / 3600:.1f} healthy hours"
    yield row(f"precision, {deaths} deaths and {healthy}", ours.precision, theirs.precision, name, "ours", ">=", 0.95)
    yield row("recall", ours.recall, theirs.recall, name, "ours", ">=", 0.95)
    yield row("recall, deaths that come gradually", _gradual(ours), _gradual(theirs), name, "ours", ">=", 0.95)
    yield row("false alarms an hour", ours.alarms_per_hour, theirs.alarms_per_hour, name, "ours", "<=", 0.1)
    yield row("lead, median s", median(ours.lead_s), median(theirs.lead_s), name, "ratio", ">=", 1)
    yield row("lead, worst s of those found", _worst(ours).lead_s, _worst(theirs).lead_s, name, "ours", ">=", 1)
    yield row("lead, median steps", median(ours.lead_steps), median(theirs.lead_steps), name, "ratio", ">=", 1)
    yield row("lead, worst steps", _worst(ours).lead_steps, _worst(theirs).lead_steps, name, "ours", ">=", 1)
    yield row("lead, median, in full checkpoints", ours.lead_in_saves, theirs.lead_in_saves, name, "ours", ">=", 10)


def _worst(result: Score) -> Found:
    return min(result.found, key=lambda found: found.lead_s)


def _gradual(result: Score) -> float:
    found = sum(not each.trace.name.startswith(SUDDEN) for each in result.found)
    missed = sum(not trace.name.startswith(SUDDEN) for trace in result.missed)
    return found / max(1, found + missed)


def _intervals(found: Sequence[Found]) -> Iterator[Row]:
    """Of the times that trends name; the first one is what a person reads, all of them are what the plot shows."""
    spoken = [list(each.intervals()) for each in found]
    first = [intervals[0] for intervals in spoken if intervals]
    every = [interval for intervals in spoken for interval in intervals]
    for figure, intervals in (("at the alarm", first), ("every second from there", every)):
        held = sum(low <= left <= high for left, low, high in intervals) / max(1, len(intervals))
        yield row(f"80 % interval holds the death, {figure}", held, 0.8, "nominal", "ratio", ">=", 0.9)
        width = median((high - low) / left for left, low, high in intervals if left > 0)
        yield row(f"its width / time left, median, {figure}", width, 1, "the time left", "ours", "<=", 1)


def _lookahead(ours: Score) -> Iterator[Row]:
    sudden = [each for each in ours.found if each.trace.name.startswith(SUDDEN)]
    missed = sum(trace.name.startswith(SUDDEN) for trace in ours.missed)
    exact = sum(each.outlook is not None and each.outlook.step == each.trace.fate.step for each in sudden)
    figure = "look-ahead: share of steps named exactly, when it warned"
    yield row(figure, exact / max(1, len(sudden) + missed), 0, "peers name no step", "ours", "==", 1)


def _costs(tuning: Sequence[Trace], hours: int) -> Iterator[Row]:
    trace = next(trace for trace in tuning if trace.name == COSTLY)
    asked_s, taken_s = _cpu_s(trace)
    for figure, value in (("mean", mean(asked_s)), ("worst", max(asked_s))):
        yield row(f"one forecast of {RANKS} ranks, ms CPU, {figure}", 1000 * value, 1, "a millisecond", "ours", "<=", 1)
    yield row("one message taken in, ms CPU, mean", 1000 * taken_s, 0.1, "a tenth of one", "ours", "<=", 0.1)
    sizes = _kept_bytes(hours)
    figure = f"kept after {hours} h, KiB, {RANKS} ranks"
    yield row(figure, sizes[-1] / 1024, sizes[0] / 1024, "after the first hour", "ratio", "<=", 2)


def _cpu_s(trace: Trace) -> tuple[list[float], float]:
    """Of each question, and the mean of what one message costs; every rank reports what that of the trace did."""
    forecaster, asked_s, taken_s, count = Forecaster(), [], 0.0, 0
    for message, state in recorded(trace):
        begun_s = time.process_time()
        if isinstance(message, wire.StepReport):
            for rank in range(RANKS):
                forecaster.step(msgspec.structs.replace(message, rank=rank), state)
            count += RANKS
        elif isinstance(message, wire.ComingGroups):
            for rank in range(RANKS):
                forecaster.coming(msgspec.structs.replace(message, rank=rank))
        elif isinstance(message, wire.HostSample):
            forecaster.host(message, state)
            count += 1
        taken_s += time.process_time() - begun_s
        if isinstance(message, wire.HostSample):
            begun_s = time.process_time()
            forecaster.forecast(state, message.time_s)
            asked_s.append(time.process_time() - begun_s)
    return asked_s, taken_s / count


def _kept_bytes(hours: int) -> list[int]:
    """The size of a forecaster that was told of ever new loads, hour by hour; a step a second."""
    forecaster, sizes = Forecaster(), []
    state = wire.RunState(run_id="long", name="long", started_s=0.0)
    memory = wire.DeviceMemory(device="simulated", kind="simulated", capacity_bytes=1 << 40)
    report = wire.StepReport(
        rank=0, seq=0, time_s=0.0, step=0, epoch=0, examples_seen=0, micro_batch=8, grad_accum_steps=1,
        step_time_s=1.0, loss=None,
    )  # fmt: skip
    for second in range(hours * 3600):
        state = msgspec.structs.replace(state, step=second)
        used = (1 << 30) + second % 1009 * 4096
        memory = msgspec.structs.replace(memory, allocated_bytes=used, peak_allocated_bytes=used + second * 1000)
        for rank in range(RANKS):
            forecaster.step(
                msgspec.structs.replace(
                    report, rank=rank, time_s=float(second), step=second, longest=second % 4093, memory=memory
                ),
                state,
            )
        if second % 3600 == 3599:
            sizes.append(len(pickle.dumps(forecaster)))
    return sizes


def _say(ours: Score) -> None:
    """Which traces it was wrong about, for whoever reads the table."""
    for trace in ours.missed:
        print(f"missed: {trace.name}", file=sys.stderr)
    for trace in ours.false:
        print(f"false alarm: {trace.name}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main("forecast", __doc__ or "", measure))

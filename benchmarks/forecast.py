"""Is the forecast right? Scored on recorded runs, healthy and dying, beside the rules that people use instead of one.

The traces (corpus/) are real processes that really allocated. Scored is the split that nothing was tuned on; the one that
was scored before, and has been looked at since, gets a few rows of its own. Both peers get the same figures, at two
settings each that were chosen on the tuning split: where they do best, and where they are as seldom wrong as ours.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from statistics import mean, median

import msgspec

from benchmarks import _alarms
from benchmarks._alarms import recorded
from benchmarks._forecast_score import Found, Score, score
from benchmarks._peers import Peer, peers
from benchmarks._table import Row, main, not_measured, row
from benchmarks._traces import Trace, traces
from memdash import wire
from memdash.forecast.forecaster import Forecaster

SUDDEN = "-outlier"
"""Traces that one long example ends: nothing rises before it, only the order to come tells."""
COSTLY = "device-graphs-random"
"""A leak, lengths and an order to come: every question is asked."""
RANKS, REPLAYS = 8, 5
HOURS, QUICK_HOURS = 12, 2
LONG_S = 2300.0
"""Longer traces are left out of a quick look."""


def measure(quick: bool) -> list[Row]:
    """All rows."""
    tuning, scoring = traces("tuning"), [each for each in traces("scoring") if not quick or each.seconds < LONG_S]
    said = {each.name: _alarms.memdash(each, _alarms.WATCHING) for each in scoring}
    watching = score(lambda trace: said[trace.name], scoring)
    ours = score(lambda trace: _alarms.alarming(said[trace.name]), scoring)
    _say(ours)
    others = peers(tuning, scoring, score(_alarms.memdash, tuning).precision, quick=quick)
    asked_s, taken_s = _cpu_s(tuning)
    rows = [*_aims(ours, max(asked_s)), *_watch(ours, watching), *_intervals(ours.found)]
    rows += [line for peer in others for line in _against(ours, peer)]
    rows += [] if quick else _second_look(score(_alarms.memdash, traces("seen")))
    rows += _costs(asked_s, taken_s, QUICK_HOURS if quick else HOURS)
    no_gpu = not_measured("no GPU where they were recorded")
    return [*rows, row("CUDA traces in the corpus", no_gpu, 0, "none", "ours", ">=", 1)]


def _aims(ours: Score, worst_s: float) -> Iterator[Row]:
    deaths, hours = len(ours.found) + len(ours.missed), ours.healthy_s / 3600
    aim = "the aim"
    yield row(
        f"precision, {deaths} deaths and {hours:.1f} healthy hours", ours.precision, 0.95, aim, "ours", ">=", 0.95
    )
    yield row("recall", ours.recall, 0.95, aim, "ours", ">=", 0.95)
    yield row("recall, deaths that come gradually", _gradual(ours), 0.95, aim, "ours", ">=", 0.95)
    yield row("false alarms an hour", ours.alarms_per_hour, 0.1, aim, "ours", "<=", 0.1)
    yield row("false alarms an hour, at most (95 %)", ours.most_alarms_per_hour, 0.1, aim, "ours", "<=", 0.1)
    yield row("lead, median, in full checkpoints", ours.lead_in_saves, 10, aim, "ours", ">=", 10)
    yield _lookahead(ours)
    yield row(f"one forecast of {RANKS} ranks, ms CPU, worst", 1000 * worst_s, 1, aim, "ours", "<=", 1)


def _second_look(seen: Score) -> Iterator[Row]:
    """Nothing independent: what was wrong there has been mended."""
    deaths, hours, aim = len(seen.found) + len(seen.missed), seen.healthy_s / 3600, "the aim"
    yield row(
        f"seen before: precision, {deaths} deaths and {hours:.1f} healthy hours",
        seen.precision,
        0.95,
        aim,
        "ours",
        ">=",
        0.95,
    )
    yield row("seen before: recall", seen.recall, 0.95, aim, "ours", ">=", 0.95)
    yield row("seen before: false alarms an hour", seen.alarms_per_hour, 0.1, aim, "ours", "<=", 0.1)


def _watch(ours: Score, watching: Score) -> Iterator[Row]:
    """The level below an alarm: earlier, and more often wrong."""
    alarm = "warning or above"
    yield row("watch: lead, median s", median(watching.lead_s), median(ours.lead_s), alarm, "ratio", ">=", 1)
    yield row("watch: precision", watching.precision, ours.precision, alarm, "ours", ">=", 0.5)


def _against(ours: Score, peer: Peer) -> Iterator[Row]:
    """Ahead, or not: each figure judged by theirs."""
    name, theirs = peer.name, peer.score
    for figure, mine, other in (
        ("precision", ours.precision, theirs.precision),
        ("recall", ours.recall, theirs.recall),
        ("recall, deaths that come gradually", _gradual(ours), _gradual(theirs)),
        ("lead, median s", median(ours.lead_s), median(theirs.lead_s)),
        ("lead, median steps", median(ours.lead_steps), median(theirs.lead_steps)),
        ("lead, worst s of those found", _worst_s(ours), _worst_s(theirs)),
        ("lead, median, in full checkpoints", ours.lead_in_saves, theirs.lead_in_saves),
    ):
        yield row(figure, mine, other, name, "ours", ">=", other)
    mine, other, count = _both_found(ours, theirs)
    yield row(f"lead, median s of the {count} deaths that both found", mine, other, name, "ours", ">=", other)
    wolf = theirs.alarms_per_hour
    yield row("false alarms an hour", ours.alarms_per_hour, wolf, name, "ours", "<=", wolf)
    wrong = len(theirs.false)
    yield row("runs with an alarm that was wrong", len(ours.false), wrong, name, "ours", "<=", wrong)


def _both_found(ours: Score, theirs: Score) -> tuple[float, float, int]:
    mine, other = ({each.trace.name: each.lead_s for each in result.found} for result in (ours, theirs))
    names = mine.keys() & other.keys()
    if not names:
        return 0.0, 0.0, 0
    return median(mine[name] for name in names), median(other[name] for name in names), len(names)


def _worst_s(result: Score) -> float:
    return min((found.lead_s for found in result.found), default=0.0)


def _gradual(result: Score) -> float:
    found = sum(SUDDEN not in each.trace.name for each in result.found)
    missed = sum(SUDDEN not in trace.name for trace in result.missed)
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


def _lookahead(ours: Score) -> Row:
    sudden = [each for each in ours.found if SUDDEN in each.trace.name]
    count = len(sudden) + sum(SUDDEN in trace.name for trace in ours.missed)
    exact = sum(each.outlook is not None and each.outlook.step == each.trace.fate.step for each in sudden)
    figure = f"look-ahead: share of {count} steps named exactly, when it warned"
    return row(figure, exact / max(1, count), 1, "the aim; peers name no step", "ours", "==", 1)


def _costs(asked_s: Sequence[float], taken_s: float, hours: int) -> Iterator[Row]:
    ordered = sorted(asked_s)
    for figure, value in (("mean", mean(asked_s)), ("p99", ordered[int(0.99 * len(ordered))]), ("worst", ordered[-1])):
        yield row(f"one forecast of {RANKS} ranks, ms CPU, {figure}", 1000 * value, 1, "a millisecond", "ours", "<=", 1)
    yield row("one message taken in, ms CPU, mean", 1000 * taken_s, 0.1, "a tenth of one", "ours", "<=", 0.1)
    sizes = _kept_bytes(hours)
    figure = f"kept after {hours} h, KiB, {RANKS} ranks"
    yield row(figure, sizes[-1] / 1024, sizes[0] / 1024, "after the first hour", "ratio", "<=", 2)


def _cpu_s(tuning: Sequence[Trace]) -> tuple[list[float], float]:
    """Of each question, and the mean of what one message costs: the least of some replays, for others use the CPU, too."""
    trace = next(trace for trace in tuning if trace.name == COSTLY)
    replays = [_replayed(trace) for _ in range(REPLAYS)]
    return [min(times) for times in zip(*(asked_s for asked_s, _ in replays), strict=True)], min(s for _, s in replays)


def _replayed(trace: Trace) -> tuple[list[float], float]:
    """Every rank reports what that of the trace did."""
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

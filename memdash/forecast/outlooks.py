"""What is foretold, in words and figures: of a memory that fills up, and of a step that will not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memdash.forecast.lookahead import Misfit
from memdash.forecast.risk import misfit_risk, trend_risk
from memdash.forecast.segments import LAST, NextSegment
from memdash.forecast.trend import Trend
from memdash.units import format_bytes, format_duration
from memdash.wire import DeviceMemory, Outlook, RunState, attempt_s

FRAGMENTS = "fragments that nothing fits into; expandable_segments:True avoids them"


@dataclass(frozen=True)
class Way:
    """A trend with its ceiling, in seconds."""

    trend: Trend
    capacity_bytes: int
    now_bytes: float
    """Floor and spike together."""
    reach_s: tuple[float, float, float]
    rates: tuple[float, float, float]
    """Bytes a second: low, likely, high."""


def over_time(trend: Trend, capacity_bytes: int, state: RunState, now_s: float) -> Way:
    """Of a line over seconds."""
    now = attempt_s(state, now_s)
    low, likely, high = trend.line.slope_low, trend.line.slope, trend.line.slope_high
    now_bytes = trend.line.value(now) + trend.spike_bytes
    return Way(trend, capacity_bytes, now_bytes, trend.reach(capacity_bytes, now), (low, likely, high))


def over_steps(trend: Trend, capacity_bytes: int, state: RunState) -> Way:
    """Likely at a pace between that of the last steps and that of the whole window."""
    lately = state.step_time_s or trend.paces_s[1]
    pace = (lately + (trend.span_s / trend.steps if trend.steps else lately)) / 2 or 1.0
    fastest, slowest = min(pace, trend.paces_s[0] or pace), max(pace, trend.paces_s[1])
    early, likely, late = trend.reach(capacity_bytes, state.step)
    now_bytes = trend.line.value(state.step) + trend.spike_bytes
    rates = (trend.line.slope_low / slowest, trend.line.slope / pace, trend.line.slope_high / fastest)
    return Way(trend, capacity_bytes, now_bytes, (early * fastest, likely * pace, late * slowest), rates)


def trend_outlook(
    where: Literal["host", "device"],
    way: Way,
    state: RunState,
    cause: str,
    rank: int = 0,
    *,
    of_others: bool = False,
    name: str = "",
) -> Outlook:
    """Of memory that fills up, `where` unless it has another name."""
    trend, (early, likely, late) = way.trend, way.reach_s
    gap = way.capacity_bytes - way.now_bytes
    step = state.step + round(likely / state.step_time_s) if state.step_time_s else None
    at = f" (step ~{step:,})" if step is not None else ""
    low, rate, high = (format_bytes(round(each * 60)) for each in way.rates)
    span = format_duration(trend.span_s)
    because = f"; {cause}" if cause else ""
    when = f"full in {span_words(early, late)}{at}"
    if gap <= 0:
        when = f"is over its ceiling of {format_bytes(way.capacity_bytes)}"
    return Outlook(
        where=where,
        kind="trend",
        level=trend_risk(trend, gap, way.reach_s, state, of_others=of_others),
        text=f"{name or where} memory {when}: +{rate} a minute for {span}{because}",
        evidence=(
            f"floor +{format_bytes(round(trend.rise_bytes))} in {span} and {trend.steps:,.0f} steps, {low} to {high} a "
            f"minute; peaks {format_bytes(round(trend.spike_bytes))} above it; {format_bytes(round(max(0.0, gap)))} left of "
            f"{format_bytes(way.capacity_bytes)}"
        ),
        in_low_s=early,
        in_s=likely,
        in_high_s=late if late != float("inf") else None,
        step=step,
        capacity_bytes=way.capacity_bytes,
        now_bytes=round(way.now_bytes),
        bytes_per_s_low=way.rates[0],
        bytes_per_s=way.rates[1],
        bytes_per_s_high=way.rates[2],
        rank=rank,
    )


def misfit_outlook(misfit: Misfit, memory: DeviceMemory, num_loads: int, state: RunState, rank: int) -> Outlook:
    """Of a step to come; its need was learnt from the peaks of so many different loads."""
    capacity = memory.capacity_bytes or 0
    coming, need = misfit.coming, misfit.need
    in_s = (coming.step - state.step) * (state.step_time_s or 0.0)
    sure = misfit.sure(capacity, in_s)
    will = "will not fit" if sure else "may not fit"
    low, high = format_bytes(round(need.low_bytes)), format_bytes(round(need.high_bytes))
    needed = need.middle_bytes if sure and need.likely_bytes <= capacity else need.likely_bytes
    return Outlook(
        where="device",
        kind="lookahead",
        level=misfit_risk(misfit, in_s, sure=sure),
        text=(
            f"step {coming.step:,} in {format_duration(in_s)} {will}: example {coming.example:,} of length "
            f"{coming.longest:,} needs {format_bytes(round(needed))} {of_capacity(memory)}; {_remedy(misfit, state)}"
        ),
        evidence=(
            f"needs {low} to {high}, from the peaks of {num_loads} different loads; "
            f"{'as large a load was seen' if need.seen else 'larger than any load seen'}"
        ),
        in_s=in_s,
        step=coming.step,
        capacity_bytes=capacity,
        need_low_bytes=round(need.low_bytes),
        need_bytes=round(need.likely_bytes),
        need_high_bytes=round(need.high_bytes),
        example=coming.example,
        longest=coming.longest,
        fitting_micro_batch=misfit.fitting_micro_batch,
        rank=rank,
    )


def segment_outlook(segment: NextSegment, memory: DeviceMemory, rank: int) -> Outlook:
    """Of an allocator that fragments have nearly filled."""
    size, room, lost = map(format_bytes, (segment.size_bytes, segment.room_bytes, segment.fragments_bytes))
    return Outlook(
        where="device",
        kind="segment",
        level="critical",
        text=(
            f"{device_name(memory)} memory full in {format_duration(segment.in_s)}: the next segment of {size} will not fit in "
            f"the {room} left; {lost} are {FRAGMENTS}"
        ),
        evidence=f"{LAST} segments were asked for in {format_duration(segment.over_s)}; {lost} {of_capacity(memory)} are gaps",
        in_s=segment.in_s,
        capacity_bytes=memory.capacity_bytes,
        rank=rank,
    )


def of_capacity(memory: DeviceMemory | None) -> str:
    """`of 15.0 GiB`; a simulated one is called so."""
    if memory is None:
        return "of n/a"
    return f"of {format_bytes(memory.capacity_bytes)}" + (" (simulated)" if memory.kind == "simulated" else "")


def device_name(memory: DeviceMemory | None) -> str:
    """`device`, or what it really is."""
    return "simulated device" if memory is not None and memory.kind == "simulated" else "device"


def _remedy(misfit: Misfit, state: RunState) -> str:
    """The micro-batch that would fit, and why this run cannot change to it, if so."""
    if misfit.fitting_micro_batch is None:
        return "no micro-batch fits"
    fits = "fits" if misfit.surely else "probably fits"
    refused = state.capabilities.get("SetBatchSplit")
    return f"micro-batch {misfit.fitting_micro_batch} {fits}" + (f", but {refused}" if refused else "")


def span_words(early_s: float, late_s: float) -> str:
    """`12m-19m`; `more than 12m` where there is no end."""
    early, late = format_duration(early_s), format_duration(late_s) if late_s != float("inf") else ""
    if not late:
        return f"more than {early}"
    return early if early == late else f"{early}-{late}"

"""Everything that memory is heading for, from what ranks and the host report: trends, steps to come, the wall budget.

Fed with messages, asked now and then; keeps a bounded amount however long the run.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from memdash.batching import divisors
from memdash.forecast import grounds
from memdash.forecast.lookahead import Coming, Misfit, first_misfit
from memdash.forecast.outlooks import (
    FRAGMENTS,
    device_name,
    misfit_outlook,
    over_steps,
    over_time,
    segment_outlook,
    trend_outlook,
)
from memdash.forecast.peak import PeakModel
from memdash.forecast.risk import Ranking
from memdash.forecast.segments import Segments
from memdash.forecast.trend import MIN_SPAN_S, Floor, Trend
from memdash.units import format_bytes, format_duration
from memdash.wire import (
    CheckpointSaved,
    ComingGroups,
    Forecast,
    HostSample,
    Outlook,
    RunState,
    StepReport,
    attempt_s,
    device_headroom_bytes,
)

LOOKS = 2
"""Lines and laws that one forecast of several ranks may cost; the others keep what they had until it is their turn."""
OWN_GROWTH = 0.6
"""Share of the growth from which on it is put down to one part of what grows: to fragments, or to this run itself."""
DISK_MARGIN = 1.05
"""Of a checkpoint's size: headers, and blocks of the file system."""


HELD_S = 0.35
"""Fragments fill a device within half a minute: they are looked at over shorter windows, of 22 s, 45 s and so on."""
Trends = tuple[Trend | None, Trend | None]
"""As they were last seen: of the floor, and of what is held of the device."""


@dataclass
class _Rank:
    """What is known of one rank's device."""

    floor: Floor = field(default_factory=lambda: Floor(over_steps=True))
    held: Floor = field(default_factory=lambda: Floor(over_steps=True, base_s=HELD_S))
    """The same with the fragments that the allocator cannot give back."""
    segments: Segments = field(default_factory=Segments)
    model: PeakModel = field(default_factory=PeakModel)
    coming: list[Coming] = field(default_factory=list)
    through_step: int = 0
    """The last step whose lengths are known."""
    last: StepReport | None = None
    since_s: float = 0.0
    """When its first step was reported."""
    trends: Trends = (None, None)
    total_bytes: int = 0
    """The largest capacity seen: what is missing of it now, others have taken."""

    def headroom_bytes(self) -> int:
        """As it was last reported."""
        return device_headroom_bytes(self.last.memory if self.last else None) or 0

    def longest_to_come(self, state: RunState) -> str:
        """What it needs, in words."""
        memory = self.last.memory if self.last else None
        last = self.coming[-1] if self.coming and self.coming[-1].step > state.step else None
        need = self.model.estimate(state.micro_batch or 1, last.longest) if last else None
        return grounds.of_steps_to_come(last, self.through_step, need, memory)

    def look_at_floor(self) -> None:
        """Whether it rises."""
        self.trends = self.floor.trend(), self.trends[1]

    def look_at_held(self) -> None:
        """Only where fragments may be what grows."""
        trend = self.trends[0]
        memory = self.last.memory if self.last else None
        if memory is not None and memory.joins_fragments:
            self.trends = trend, None
            return
        fragments = (memory.inactive_split_bytes if memory else 0) or 0
        matter = trend is None or fragments > trend.rise_bytes / 2
        self.trends = trend, self.held.trend() if matter else None


class Forecaster:
    """One attempt of a run."""

    def __init__(self, wall_s: float = 0.0) -> None:
        self._wall_s = wall_s
        self._ranks: dict[int, _Rank] = {}
        self._host_floor, self._others_floor = Floor(), Floor()
        self._host_trend: Trend | None = None
        self._host: HostSample | None = None
        self._host_since_s: float | None = None
        self._saved: CheckpointSaved | None = None
        self._ranking = Ranking()
        self._looks: deque[Callable[[], None]] = deque([self._look_at_host])
        """What costs most, in turn: lines and laws, which do not change from second to second."""
        self.caps: dict[int, int] = {}
        """Steps to come for which a smaller micro-batch has been asked for."""

    def step(self, report: StepReport, state: RunState) -> None:
        """One optimizer step of a rank."""
        memory = report.memory
        if memory is None or memory.capacity_bytes is None or memory.allocated_bytes is None:
            return
        rank = self._rank(report.rank)
        if rank.last is not None and report.step < rank.last.step:
            self._go_back(rank, report.step)
        is_first, rank.last = rank.last is None, report
        rank.total_bytes = max(rank.total_bytes, memory.capacity_bytes)
        used = memory.allocated_bytes + rank.total_bytes - memory.capacity_bytes
        peak = memory.peak_allocated_bytes or memory.allocated_bytes
        above = max(0, peak - memory.allocated_bytes)
        time_s = attempt_s(state, report.time_s)
        rank.since_s = time_s if is_first else rank.since_s
        rank.floor.add(time_s, report.step, used, used + above)
        rank.segments.add(time_s, memory)
        if memory.inactive_split_bytes is not None and not memory.joins_fragments:
            rank.held.add(time_s, report.step, used + memory.inactive_split_bytes)
        # not of the first: it makes the optimizer's state, and ends higher than it began
        if not is_first and memory.peak_allocated_bytes is not None:
            rank.model.add(report.micro_batch, report.longest, above)

    def _go_back(self, rank: _Rank, step: int) -> None:
        """To a checkpoint: the steps from there on come again, and nobody has asked for anything about them."""
        rank.floor, rank.held, rank.segments = Floor(over_steps=True), Floor(over_steps=True, base_s=HELD_S), Segments()
        rank.trends = None, None
        self.caps = {capped: size for capped, size in self.caps.items() if capped < step}

    def _rank(self, number: int) -> _Rank:
        if number not in self._ranks:
            rank = self._ranks[number] = _Rank()
            self._looks += rank.look_at_floor, rank.look_at_held, rank.model.refit
        return self._ranks[number]

    def host(self, sample: HostSample, state: RunState) -> None:
        """CPU RAM; while the run is paused nothing is learnt from it."""
        self._host = sample
        if state.phase == "paused":
            return
        time_s = attempt_s(state, sample.time_s)
        self._host_since_s = time_s if self._host_since_s is None else self._host_since_s
        host = sample.host
        self._host_floor.add(time_s, state.step, host.working_set_bytes, host.peak_working_set_bytes)
        self._others_floor.add(time_s, state.step, host.working_set_bytes - host.process_bytes)

    def coming(self, message: ComingGroups) -> None:
        """The order of examples to come."""
        rank = self._rank(message.rank)
        rank.coming = [Coming(*each) for each in zip(message.steps, message.longest, message.examples, strict=True)]
        rank.through_step = message.through_step

    def saved(self, message: CheckpointSaved) -> None:
        """A checkpoint: the next full one will be as large."""
        if message.kind == "full":
            self._saved = message

    def forecast(self, state: RunState, now_s: float, free_disk_bytes: int | None = None) -> Forecast:
        """All there is to say now, the most urgent first; `now_s` is Unix time."""
        for _ in range(LOOKS if len(self._ranks) > 1 else len(self._looks)):
            self._looks[0]()
            self._looks.rotate(-1)
        outlooks = [*self._host_outlooks(state, now_s), *self._wall_outlooks(state, now_s)]
        outlooks += self._disk_outlooks(free_disk_bytes)
        for number, rank in self._ranks.items():
            outlooks += self._device_outlooks(number, rank, state)
        shown = self._ranking.settle(outlooks, now_s)
        level = shown[0].level if shown else "ok"
        told = {(each.where, each.kind) for each in shown}
        calm = [line for about, line in self._grounds(outlooks, state, now_s, free_disk_bytes) if about not in told]
        return Forecast(
            time_s=now_s, level=level, headline=shown[0].text if shown else "", outlooks=shown, grounds=calm
        )

    def _look_at_host(self) -> None:
        self._host_trend = self._host_floor.trend()

    def _grounds(
        self, outlooks: list[Outlook], state: RunState, now_s: float, free_bytes: int | None
    ) -> Iterator[tuple[tuple[str, str], str]]:
        """A line for each question, whatever its answer; of several ranks that with the least headroom."""
        passed_s = attempt_s(state, now_s)
        trends = {(each.where, each.rank): each for each in outlooks if each.kind == "trend"}
        if self._host_since_s is not None:
            seen_s = passed_s - self._host_since_s
            yield ("host", "trend"), grounds.of_trend("host", trends.get(("host", 0)), seen_s, MIN_SPAN_S)
        known = [number for number, rank in self._ranks.items() if rank.last is not None]
        if known:
            number = min(known, key=lambda each: self._ranks[each].headroom_bytes())
            rank = self._ranks[number]
            seen_s = passed_s - rank.since_s
            assert rank.last is not None
            name, trend = device_name(rank.last.memory), trends.get(("device", number))
            yield ("device", "trend"), grounds.of_trend(name, trend, seen_s, MIN_SPAN_S)
            yield ("device", "lookahead"), rank.longest_to_come(state)
        if self._saved is not None and free_bytes is not None:
            yield ("disk", "budget"), grounds.of_disk(self._saved.size_bytes, free_bytes)
        if self._wall_s and state.eta_s is not None:
            yield ("time", "budget"), grounds.of_time(state.eta_s, self._wall_s - passed_s)

    # ---- the three questions ----

    def _host_outlooks(self, state: RunState, now_s: float) -> Iterator[Outlook]:
        trend = self._host_trend
        if trend is None or self._host is None:
            return
        cause = "this run grows, as `losses.append(loss)` without .item() does"
        rise = self._others_floor.rise_over(trend.span_s)
        of_others = rise > (1 - OWN_GROWTH) * trend.rise_bytes
        if of_others:
            cause = f"other processes grew {format_bytes(round(rise))} in {format_duration(trend.span_s)}"
        way = over_time(trend, self._host.host.capacity_bytes, state, now_s)
        yield trend_outlook("host", way, state, cause, of_others=of_others)

    def _device_outlooks(self, number: int, rank: _Rank, state: RunState) -> Iterator[Outlook]:
        if rank.last is None or rank.last.memory is None:
            return
        trend, held = rank.trends
        others = rank.total_bytes - (rank.last.memory.capacity_bytes or 0)
        cause = "tensors are kept from step to step, as by a retained graph"
        if held is not None and (trend is None or trend.line.slope < OWN_GROWTH * held.line.slope):
            of_tensors = rank.floor.rise_over(held.span_s) >= OWN_GROWTH * held.rise_bytes
            trend, cause = held, cause if of_tensors else FRAGMENTS
        if trend is not None:
            cause = "other processes take it" if others > trend.rise_bytes / 2 else cause
            way, name = over_steps(trend, rank.total_bytes, state), device_name(rank.last.memory)
            yield trend_outlook("device", way, state, cause, number, name=name)
        if (segment := rank.segments.misfit(rank.last.memory, attempt_s(state, rank.last.time_s))) is not None:
            yield segment_outlook(segment, rank.last.memory, number)
        misfit = self._misfit(rank, state)
        if misfit is not None:
            yield misfit_outlook(misfit, rank.last.memory, len(rank.model), state, number)

    def _misfit(self, rank: _Rank, state: RunState) -> Misfit | None:
        report = rank.last
        assert report is not None
        assert report.memory is not None
        group = max(1, state.global_batch // max(1, state.world_size))
        return first_misfit(
            rank.coming,
            rank.model,
            done_steps=state.step,
            micro_batch=state.micro_batch or report.micro_batch,
            choices=divisors(group),
            floor_bytes=report.memory.allocated_bytes or 0,
            capacity_bytes=report.memory.capacity_bytes or 0,
            caps=self.caps,
        )

    def _wall_outlooks(self, state: RunState, now_s: float) -> Iterator[Outlook]:
        if not self._wall_s or state.eta_s is None or state.step - state.start_step < 20:
            return
        left_s = self._wall_s - attempt_s(state, now_s)
        if state.eta_s <= left_s:
            return
        short = format_duration(state.eta_s - left_s)
        text = f"the wall budget ends in {format_duration(max(0.0, left_s))}, {short} too early: saved and stopped before it"
        yield Outlook(where="time", kind="budget", level="watch", text=text, in_s=max(0.0, left_s))

    def _disk_outlooks(self, free_bytes: int | None) -> Iterator[Outlook]:
        """A new checkpoint is written before an old one is removed."""
        if self._saved is None or free_bytes is None or free_bytes >= DISK_MARGIN * self._saved.size_bytes:
            return
        size, free = format_bytes(self._saved.size_bytes), format_bytes(free_bytes)
        text = f"the next full checkpoint will not fit on the disk: it takes {size}, {free} are free"
        yield Outlook(where="disk", kind="budget", level="warning", text=text)

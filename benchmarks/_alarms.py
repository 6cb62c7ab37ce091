"""What each side says of a trace, once a second: memdash's forecast, and the rules that people use instead of one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec

from benchmarks._traces import Trace
from memdash import wire
from memdash.forecast.backtest import Said, replay
from memdash.supervisor.events import RankStarted
from memdash.supervisor.run_state import advance

ALARMING: tuple[wire.Risk, ...] = ("warning", "critical")
WATCHING: tuple[wire.Risk, ...] = ("watch", *ALARMING)
SCRAPE_S, RANGE_S, AHEAD_S, HOLD_S = 15.0, 3600.0, 4 * 3600.0, 300.0
"""predict_linear(x[1h], 4*3600) < 0, for: 5m, scraped every 15 s: the form that most published rules have."""
LONGER = 1000
LEAK_WINDOW_S, LEAK_R2 = 300.0, 0.7


@dataclass(frozen=True)
class Tick:
    """What stands at one moment."""

    time_s: float
    step: int
    alarms: dict[str, wire.Outlook | None]
    """Ceilings that are said to be hit: `host`, `device`; with the most urgent outlook, where there is one."""


Rule = Callable[[Trace], list[Tick]]


def recorded(trace: Trace) -> Iterator[tuple[wire.Message, wire.RunState]]:
    """Every message with the run's state after it, as a supervisor has it.

    As the beginning of a much longer run: one that is known to be over soon excuses a forecast, and peers are not told.
    """
    state = wire.RunState(run_id=trace.name, name=trace.name)
    state = advance(state, RankStarted(time_s=trace.started_s, pid=1, attempt=0, by_policy=False))
    for message in trace.messages:
        if isinstance(message, wire.TrainingStarted):
            message = msgspec.structs.replace(message, total_steps=LONGER * message.total_steps)
        state = advance(state, message)
        yield message, state


def memdash(trace: Trace, levels: Sequence[wire.Risk] = ALARMING) -> list[Tick]:
    """Our forecast: what it says at these levels."""
    return [Tick(said.forecast.time_s, said.state.step, _alarms(said, levels)) for said in replay(recorded(trace))]


def alarming(ticks: Sequence[Tick]) -> list[Tick]:
    """What remains of one that watches: the most urgent outlook of each ceiling decides."""
    return [
        replace(tick, alarms={where: each for where, each in tick.alarms.items() if each and each.level in ALARMING})
        for tick in ticks
    ]


def _alarms(said: Said, levels: Sequence[wire.Risk]) -> dict[str, wire.Outlook | None]:
    alarms: dict[str, wire.Outlook | None] = {}
    for outlook in said.forecast.outlooks:
        if outlook.where in ("host", "device") and outlook.level in levels:
            alarms.setdefault(outlook.where, outlook)
    return alarms


def predict_linear(scale: float, ahead: float = 1.0, hold: float = 1.0) -> Rule:
    """Prometheus's rule on the headroom of host and device, with all its times divided by `scale`.

    It looks `ahead` times as far as usual, and holds `hold` times as long before it fires.
    """

    def at(line: Line | None) -> bool:
        return line is not None and line.level + line.slope * ahead * AHEAD_S / scale < 0

    return lambda trace: _watched(trace, SCRAPE_S / scale, RANGE_S / scale, 0.0, hold * HOLD_S / scale, at)


def steady_growth(scale: float, r2: float = LEAK_R2, hold: float = 0.0) -> Rule:
    """A leak is what rises with R2 >= `r2` over the last five minutes, divided by `scale`; for `hold` times as long."""

    def at(line: Line | None) -> bool:
        return line is not None and line.slope < 0 and line.r2 >= r2

    window_s = LEAK_WINDOW_S / scale
    return lambda trace: _watched(trace, 0.0, window_s, 0.9 * window_s, hold * window_s, at)


@dataclass(frozen=True)
class Line:
    """Least squares over a window, up to now."""

    level: float
    """Now."""
    slope: float
    r2: float


class Window:
    """The newest points of a series; its line in constant time."""

    def __init__(self, range_s: float) -> None:
        self._range_s = range_s
        self._points: deque[tuple[float, float]] = deque()
        self._sums = [0.0] * 5

    def add(self, x: float, y: float) -> None:
        """Later than the ones before."""
        self._points.append((x, y))
        self._count(x, y, 1)
        while self._points[0][0] < x - self._range_s:
            self._count(*self._points.popleft(), -1)

    def span_s(self) -> float:
        """Of what there is."""
        return self._points[-1][0] - self._points[0][0] if self._points else 0.0

    def line(self, now: float) -> Line | None:
        """None for fewer than two points."""
        count = len(self._points)
        x, y, xx, xy, yy = self._sums
        spread = xx - x * x / count if count else 0.0
        if count < 2 or spread <= 0:
            return None
        slope = (xy - x * y / count) / spread
        varied = yy - y * y / count
        r2 = slope * slope * spread / varied if varied > 1e-9 else 0.0
        return Line(y / count + slope * (now - x / count), slope, r2)

    def _count(self, x: float, y: float, sign: int) -> None:
        for place, value in enumerate((x, y, x * x, x * y, y * y)):
            self._sums[place] += sign * value


def _watched(
    trace: Trace, scrape_s: float, range_s: float, least_s: float, hold_s: float, at: Callable[[Line | None], bool]
) -> list[Tick]:
    """A rule on both headrooms: it fires when it has held for a while, and asks for a window that is full so far."""
    windows: dict[str, Window] = {}
    scraped: dict[str, float] = {}
    since: dict[str, float] = {}
    ticks: list[Tick] = []
    step, due_s = 0, 0.0
    for time_s, where, headroom, at_step in _headrooms(trace):
        step = at_step or step
        if time_s - scraped.get(where, -1e9) >= scrape_s:
            scraped[where] = time_s
            windows.setdefault(where, Window(range_s)).add(time_s, headroom / 2**20)
        if time_s < due_s:
            continue
        due_s = max(due_s + 1.0, time_s)
        for name, window in windows.items():
            if window.span_s() >= least_s and at(window.line(time_s)):
                since.setdefault(name, time_s)
            else:
                since.pop(name, None)
        firing: dict[str, wire.Outlook | None] = {
            name: None for name, held_s in since.items() if time_s - held_s >= hold_s
        }
        ticks.append(Tick(trace.started_s + time_s, step, firing))
    return ticks


def _headrooms(trace: Trace) -> Iterable[tuple[float, str, int, int]]:
    """Seconds since the start, ceiling, bytes left at the last peak, step: what memdash is told, too.

    From the first step on: while a process starts, everything grows, and only memdash knows of steps.
    """
    first_s = min(message.time_s for message in trace.messages if isinstance(message, wire.StepReport))
    for message in trace.messages:
        if getattr(message, "time_s", 0.0) < first_s:
            continue
        if isinstance(message, wire.HostSample):
            yield message.time_s - trace.started_s, "host", wire.host_headroom_bytes(message.host) or 0, 0
        elif isinstance(message, wire.StepReport):
            left = wire.device_headroom_bytes(message.memory)
            if left is not None:
                yield message.time_s - trace.started_s, "device", left, message.step

"""How right a rule was about traces: what it found, how early, and how often it cried wolf."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks._alarms import Rule, Tick
from benchmarks._traces import Trace
from memdash import wire


@dataclass(frozen=True)
class Found:
    """A death that was announced by an alarm of the right ceiling which stood until the end."""

    trace: Trace
    first: Tick
    """Where that alarm began."""
    standing: list[Tick]
    """From there to the end."""

    @property
    def lead_s(self) -> float:
        """From the alarm to the end."""
        return self.trace.fate.time_s - self.first.time_s

    @property
    def lead_steps(self) -> int:
        """The same in steps."""
        return self.trace.fate.step - self.first.step

    @property
    def outlook(self) -> wire.Outlook | None:
        """What was said when it began."""
        return self.first.alarms[self.trace.fate.died_of]

    def intervals(self) -> Iterator[tuple[float, float, float]]:
        """What was left, and between which times the end was said to come: second by second."""
        for tick in self.standing:
            outlook = tick.alarms[self.trace.fate.died_of]
            if outlook is not None and outlook.in_low_s is not None:
                left_s = self.trace.fate.time_s - tick.time_s
                high_s = float("inf") if outlook.in_high_s is None else outlook.in_high_s
                yield left_s, outlook.in_low_s, high_s


@dataclass
class Score:
    """Of one rule on some traces."""

    found: list[Found] = field(default_factory=list)
    missed: list[Trace] = field(default_factory=list)
    false: list[Trace] = field(default_factory=list)
    """Healthy ones with an alarm, and dying ones with an alarm of a ceiling that was not hit."""
    num_alarms: int = 0
    """Times that an alarm began in a healthy trace."""
    healthy_s: float = 0.0

    @property
    def precision(self) -> float:
        """Share of the alarmed traces that the alarm was right about."""
        return len(self.found) / max(1, len(self.found) + len(self.false))

    @property
    def recall(self) -> float:
        """Share of the deaths that were found."""
        return len(self.found) / max(1, len(self.found) + len(self.missed))

    @property
    def f1(self) -> float:
        """Of both."""
        return 2 * self.precision * self.recall / max(1e-9, self.precision + self.recall)

    @property
    def alarms_per_hour(self) -> float:
        """Of healthy training."""
        return self.num_alarms / max(1e-9, self.healthy_s / 3600)

    @property
    def most_alarms_per_hour(self) -> float:
        """A true rate above this would have shown more of them, 19 times of 20 (Poisson)."""
        low, high = 0.0, 100.0 + 2 * self.num_alarms
        while high - low > 1e-6:
            mean = (low + high) / 2
            so_few = sum(math.exp(-mean) * mean**count / math.factorial(count) for count in range(self.num_alarms + 1))
            low, high = (mean, high) if so_few > 0.05 else (low, mean)
        return high / max(1e-9, self.healthy_s / 3600)

    @property
    def lead_s(self) -> list[float]:
        """Of every death: 0 for one that was missed."""
        return sorted([*(found.lead_s for found in self.found), *(0.0 for _ in self.missed)])

    @property
    def lead_steps(self) -> list[int]:
        """The same in steps."""
        return sorted([*(found.lead_steps for found in self.found), *(0 for _ in self.missed)])

    @property
    def lead_in_saves(self) -> float:
        """Median over the deaths of the lead in full checkpoints of that very run."""
        leads = [found.lead_s / save_s(found.trace) for found in self.found]
        return median([*leads, *(0.0 for _ in self.missed)])


def save_s(trace: Trace) -> float:
    """What the full checkpoint of that run took."""
    return max(message.duration_s for message in trace.messages if isinstance(message, wire.CheckpointSaved))


def score(rule: Rule, traces: Sequence[Trace]) -> Score:
    """Judge a rule by what became of the runs."""
    result = Score()
    for trace in traces:
        ticks = rule(trace)
        died_of = trace.fate.died_of
        if any(set(tick.alarms) - {died_of} for tick in ticks):
            result.false.append(trace)
        if not died_of:
            result.healthy_s += trace.seconds
            result.num_alarms += _beginnings(ticks)
        elif standing := _standing_at_the_end(ticks, died_of):
            result.found.append(Found(trace, standing[0], standing))
        else:
            result.missed.append(trace)
    return result


def _beginnings(ticks: Sequence[Tick]) -> int:
    before: set[str] = set()
    count = 0
    for tick in ticks:
        count += len(set(tick.alarms) - before)
        before = set(tick.alarms)
    return count


def _standing_at_the_end(ticks: Sequence[Tick], where: str) -> list[Tick]:
    standing: list[Tick] = []
    for tick in reversed(ticks):
        if where not in tick.alarms:
            break
        standing.append(tick)
    return standing[::-1]

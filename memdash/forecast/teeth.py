"""Rises of memory that were given back: the teeth of a saw, whatever they stand on."""

from __future__ import annotations

from dataclasses import dataclass

MAX_TEETH, MAX_MARKS = 16, 64


@dataclass
class _Mark:
    """The last time that memory was as low as this, and the highest that it has been since, before the next mark."""

    time_s: float
    value: float
    high_s: float
    high: float

    def take_in(self, other: _Mark) -> None:
        """Of a later one, what was highest."""
        if other.high > self.high:
            self.high_s, self.high = other.high_s, other.high


@dataclass(frozen=True)
class _Tooth:
    rise: float
    took_s: float
    top_s: float


class Teeth:
    """The largest rises that were given back since the beginning; bounded in memory."""

    def __init__(self) -> None:
        self._marks: list[_Mark] = []
        """Each is higher than the one before."""
        self._largest: list[_Tooth] = []

    def add(self, time_s: float, value: float) -> None:
        """One reading; a fall gives back what has risen since memory was last as low."""
        fallen: _Mark | None = None
        while self._marks and self._marks[-1].value >= value:
            last = self._marks.pop()
            if fallen is not None:
                last.take_in(fallen)
            fallen = last
        mark = _Mark(time_s, value, time_s, value)
        if fallen is not None:
            rise_began_s = self._marks[-1].time_s if self._marks else fallen.time_s
            self._note(_Tooth(fallen.high - value, fallen.high_s - rise_began_s, fallen.high_s))
            if self._marks:
                self._marks[-1].take_in(fallen)
        self._marks.append(mark)
        if len(self._marks) > MAX_MARKS:
            self._thin_out()

    def any_like(self, rise: float, took_s: float) -> bool:
        """Whether as large a rise has been given back that took as long."""
        return any(tooth.rise >= rise and tooth.took_s >= took_s for tooth in self._largest)

    def _note(self, tooth: _Tooth) -> None:
        """One that still falls is the same tooth, and larger."""
        if tooth.rise <= 0 or (len(self._largest) == MAX_TEETH and tooth.rise <= self._largest[-1].rise):
            return
        others = [each for each in self._largest if each.top_s != tooth.top_s]
        self._largest = sorted([*others, tooth], key=lambda each: each.rise, reverse=True)[:MAX_TEETH]

    def _thin_out(self) -> None:
        """Every other mark goes; when exactly a rise began is not needed."""
        kept = self._marks[:1]
        for place, mark in enumerate(self._marks[1:-1], start=1):
            if place % 2:
                kept[-1].take_in(mark)
            else:
                kept.append(mark)
        self._marks = [*kept, self._marks[-1]]

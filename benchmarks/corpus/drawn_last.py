"""Every kind once more, twice: each time from a seed that was drawn when everything had been tuned, looked at by nobody."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from benchmarks.corpus import drawn, drawn_again
from benchmarks.corpus.scenarios import Scenario
from benchmarks.corpus.soak import soak


@dataclass(frozen=True)
class Draw:
    """A seed, and what its traces are called by."""

    mark: str
    seed: str
    soak_s: float

    def soaks(self) -> tuple[Scenario, ...]:
        """All at once, on a machine that others used meanwhile: enough hours to tell a tenth of a false alarm an hour."""
        marks = (self.mark, 2 * self.mark)
        return tuple(each for mark in marks for each in soak(mark, seed=self.seed, seconds=self.soak_s))

    def short(self, kinds: dict[str, tuple[int, drawn.Draw]]) -> list[Scenario]:
        """As many of each kind as there were at first."""
        return [
            draw(name, self._random(name)) for kind, (count, draw) in kinds.items() for name in self._names(kind, count)
        ]

    def others(self, kinds: dict[str, tuple[int, int, drawn_again.Draw]]) -> list[Scenario]:
        """As many as there were for scoring before: other models, slow deaths, fragmentation."""
        return [
            draw(name, self._random(name), "scoring")
            for kind, (_, count, draw) in kinds.items()
            for name in self._names(kind, count)
        ]

    def everything(self) -> list[Scenario]:
        """What it comes to."""
        return [
            *self.soaks(),
            *self.short(drawn.HEALTHY | drawn.DYING),
            *self.others(drawn_again.HEALTHY | drawn_again.DYING),
        ]

    def dying(self) -> list[Scenario]:
        """Those of them that are to die."""
        return [*self.short(drawn.DYING), *self.others(drawn_again.DYING)]

    def _names(self, kind: str, count: int) -> list[str]:
        return [f"{kind}-{self.mark}{number}" for number in range(1, count + 1)]

    def _random(self, name: str) -> Random:
        return Random(f"{self.seed} {name}")


FIRST = Draw("h", "1795849415", 3900.0)
"""The clock, once growth of others had been told from the run's own."""
SECOND = Draw("i", "1795853960", 3600.0)
"""The clock, once the first had been scored: what was wrong there is mended since."""

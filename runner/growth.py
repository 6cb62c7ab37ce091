"""When a micro-batch that ran out of memory is tried larger again (pure).

`settled` is the size between tries. After `after` steps without an OOM the next larger equal cut is tried once; each try
that fails doubles the wait. A size that failed for a group whose longest example has length L is kept from groups as long
while the wait lasts, and not from shorter ones: one long example does not keep the rest of the run small.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from memdash.batching import next_larger, next_smaller

TOO_OFTEN = 2  # clean groups running whose allocations were retried; one alone may be a change of shapes


@dataclass
class Growth:
    """The sizes of one run's groups; its fields are what a checkpoint keeps of it."""

    group: int
    asked: int
    """What a person wants: nothing larger is ever tried."""
    after: int
    """0 = what was shrunk stays small."""
    settled: int
    wait: int = 0
    clean: int = 0
    """Steps since the last OOM or growth."""
    has_grown: bool = False
    """Whether `settled` was reached by growing; if it fails, growing was wrong."""
    failures: dict[int, int] = field(default_factory=dict)
    """Micro-batch -> the longest example of the group that it failed for; of several such groups the shortest."""

    def __post_init__(self) -> None:
        self.wait = max(self.wait, self.after)

    @classmethod
    def start(cls, group: int, micro_batch: int, after: int) -> Growth:
        """At the size that a person asks for."""
        return cls(group=group, asked=micro_batch, after=after, settled=micro_batch)

    def choose(self, longest: int) -> int:
        """The micro-batch for the next group, whose longest example has this length."""
        size = self.settled
        if not self.after:
            return size
        larger = min(next_larger(self.group, size) or self.group, self.asked)
        if larger > size and self.clean >= self.after and not self._avoids(larger, longest):
            return larger
        while self._avoids(size, longest) and (smaller := next_smaller(self.group, size)):
            size = smaller
        return size

    def kept_small(self) -> tuple[int, int]:
        """A length, and for how many steps groups with as long an example are cut below `settled`; zeros for none."""
        known = [length for size, length in self.failures.items() if size <= self.settled]
        left = self.wait - self.clean
        return (min(known), left) if self.after and known and left > 0 else (0, 0)

    def why(self, size: int, longest: int) -> str:
        """Why `choose` changed the size to this one, in words."""
        if size > self.settled:
            return f"{self.clean} steps without an OOM"
        if size < self.settled:
            return f"an example of length {longest}: for groups as long, {min(self.failures)} did not fit"
        return "back after a group with a long example"

    def succeeded(self, size: int, longest: int) -> None:
        """A group was trained without an OOM."""
        if size > self.settled:
            self.settled, self.clean, self.has_grown = size, 0, True
        else:
            self.clean += 1
        self.failures = {s: length for s, length in self.failures.items() if s > size or length > longest}
        if not self.failures:
            self.wait = self.after

    def failed(self, size: int, longest: int, chosen: int) -> None:
        """A group did not fit at `size`; it is trained at `chosen`."""
        if size > self.settled or self.has_grown:
            self.wait *= 2
        self.settled = min(self.settled, chosen)
        self.clean, self.has_grown = 0, False
        self.failures[size] = min(longest, self.failures.get(size, longest))

    def save(self) -> dict[str, Any]:
        """For a checkpoint, as JSON."""
        return asdict(self) | {"failures": sorted(self.failures.items())}

    def load(self, saved: dict[str, Any]) -> None:
        """What `save` gave in a run of the same group; how long to wait is this config's matter."""
        for name in ("asked", "settled", "clean", "has_grown"):
            setattr(self, name, saved[name])
        self.wait = max(self.after, saved["wait"])
        self.failures = dict(saved["failures"])

    def _avoids(self, size: int, longest: int) -> bool:
        known = self.failures.items()
        return self.clean < self.wait and any(size >= s and longest >= length for s, length in known)


@dataclass
class Thrashing:
    """An allocator that gives its cache back and asks anew in group after group: slow, and one step from an OOM."""

    _last: int = 0
    _running: int = 0

    def seen(self, num_alloc_retries: int, *, recovered: bool) -> bool:
        """Count a group; True when the next should be cut smaller. A group that had an OOM retried of course."""
        rose = num_alloc_retries > self._last and not recovered
        self._last = num_alloc_retries
        self._running = self._running + 1 if rose else 0
        if self._running < TOO_OFTEN:
            return False
        self._running = 0
        return True

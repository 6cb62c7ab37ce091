"""Every ceiling over a process's memory, and the one that it will hit first: the one with the least headroom.

The machine, each cgroup above the process (v1 and v2), its own rlimits and the budget that its user has set. Each counts
something else as used, so limits alone do not tell which binds: a wide cgroup that neighbours have filled kills before a
narrow one that is half empty.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from memdash.host import kept
from memdash.host.capacity import NO_LIMIT, CgroupLevel, cgroup_levels, read_field
from memdash.host.process_tree import TreeReading

_AVAILABLE = re.compile(rb"^MemFree:\s+(\d+) kB\nMemAvailable:\s+(\d+) kB", re.MULTILINE)
STICKINESS = 0.9  # another ceiling must be this much nearer before the capacity that is shown jumps


@dataclass(frozen=True)
class Fill:
    """How full a ceiling is, in bytes."""

    used_bytes: int
    """What cannot be given back."""
    reclaimable_bytes: int = 0
    """Page cache that the kernel drops before it refuses anything; on top of `used_bytes`."""


class Ceiling(Protocol):
    """A limit and what counts against it."""

    @property
    def limit_bytes(self) -> int:
        """Where it is."""

    @property
    def source(self) -> str:
        """The file, call or config key that names it."""

    def fill(self, tree: TreeReading) -> Fill:
        """What is in use; `tree` is the training process with its children."""


@dataclass(frozen=True)
class Machine:
    """All memory there is; the kernel's own estimate says how much of it could be had without swapping."""

    limit_bytes: int
    source: str
    root: Path = Path("/")

    def fill(self, tree: TreeReading) -> Fill:
        """MemTotal - MemAvailable; where there is no /proc, psutil's figures."""
        found = _AVAILABLE.search(self._meminfo())
        if found is None:
            import psutil

            memory = psutil.virtual_memory()
            return Fill(int(memory.total - memory.available))
        free_bytes, available_bytes = int(found[1]) * 1024, int(found[2]) * 1024
        return Fill(self.limit_bytes - available_bytes, max(0, available_bytes - free_bytes))

    def _meminfo(self) -> bytes:
        try:
            return kept.read(f"{self.root}/proc/meminfo".replace("//", "/"))
        except OSError:
            return b""


@dataclass(frozen=True)
class Cgroup:
    """The hard limit of one cgroup, or (v1) one that its namespace hides but memory.stat tells."""

    limit_bytes: int
    source: str
    level: CgroupLevel

    def fill(self, tree: TreeReading) -> Fill:
        """The working set, as Kubernetes counts it: usage less inactive page cache."""
        usage_bytes = self.level.usage_bytes()
        if usage_bytes is None:
            return Fill(tree.rss_bytes)
        inactive_bytes = min(usage_bytes, read_field(self.level.path / "memory.stat", self.level.inactive_field) or 0)
        return Fill(usage_bytes - inactive_bytes, inactive_bytes)


@dataclass(frozen=True)
class AddressSpace:
    """RLIMIT_AS or RLIMIT_DATA of the training process: they count address space, touched or not."""

    limit_bytes: int
    source: str
    field: str
    """The field of TreeReading that is counted."""

    def fill(self, tree: TreeReading) -> Fill:
        """Of the training process alone: each of its children has a limit of its own."""
        return Fill(getattr(tree, self.field))


@dataclass(frozen=True)
class Budget:
    """What the user has set for the training process and its children together."""

    limit_bytes: int
    source: str = "memory.host_budget"

    def fill(self, tree: TreeReading) -> Fill:
        """Their resident memory."""
        return Fill(tree.rss_bytes)


def find_ceilings(pid: int | str = "self", budget_bytes: int = 0, root: Path = Path("/")) -> list[Ceiling]:
    """Every ceiling over `pid`, the machine first, then from the leaf cgroup outwards. `root` is `/` but in tests."""
    found: list[Ceiling] = [_machine(root)]
    for level in cgroup_levels(pid, root):
        found += _of_cgroup(level)
    if pid == "self":
        pid = os.getpid()
    if isinstance(pid, int):
        found += _rlimits(pid)
    if budget_bytes:
        found.append(Budget(budget_bytes))
    return found


def binding(ceilings: Sequence[Ceiling], tree: TreeReading, held: Ceiling | None = None) -> Ceiling:
    """The one with the least headroom; `held` stays unless another is clearly nearer.

    A tie goes to the later, outer one: it ends all of us.
    """
    headrooms = [ceiling.limit_bytes - ceiling.fill(tree).used_bytes for ceiling in ceilings]
    least = min(headrooms)
    if held is not None and held in ceilings and least > STICKINESS * headrooms[ceilings.index(held)]:
        return held
    return ceilings[max(index for index, headroom in enumerate(headrooms) if headroom == least)]


def _machine(root: Path) -> Machine:
    total_kib = read_field(root / "proc/meminfo", "MemTotal:")
    if total_kib is not None:
        return Machine(total_kib * 1024, "/proc/meminfo: MemTotal", root)
    import psutil

    return Machine(psutil.virtual_memory().total, "psutil.virtual_memory().total", root)


def _of_cgroup(level: CgroupLevel) -> Iterator[Cgroup]:
    limit = level.limit_bytes()
    if limit is not None:
        yield Cgroup(limit, str(level.limit_file), level)
    if level.version == 1:
        hidden = read_field(level.path / "memory.stat", "hierarchical_memory_limit")
        if hidden is not None and hidden < min(limit or NO_LIMIT, NO_LIMIT):  # an ancestor outside our namespace
            yield Cgroup(hidden, f"{level.path}/memory.stat: hierarchical_memory_limit", level)


def _rlimits(pid: int) -> Iterator[AddressSpace]:
    import resource

    for name, field in (("RLIMIT_AS", "vm_size_bytes"), ("RLIMIT_DATA", "vm_data_bytes")):
        try:
            soft, _ = resource.prlimit(pid, getattr(resource, name))
        except (AttributeError, OSError, ValueError):  # no such call here, or the process has gone
            return
        if soft != resource.RLIM_INFINITY:
            yield AddressSpace(soft, name, field)

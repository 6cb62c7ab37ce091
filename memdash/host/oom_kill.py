"""Whether the kernel's OOM killer ended a process, and which limit was reached: judged from what it counts and logs (pure).

A kill is counted in the cgroup of the process that died, on v2 in all above it too; so only the leaf's count says
something about us. Which limit was reached is counted elsewhere (`oom` on v2, `failcnt` on v1) and named in the log.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from memdash.units import format_bytes

NO_LIMIT_BYTES = 1 << 60
_KILLED = re.compile(r"Killed process (\d+) \((.*?)\)(?:,| total-vm|$)")
_CONSTRAINT = re.compile(r"oom-kill:constraint=(\w+)")
_OOM_MEMCG = re.compile(r"oom_memcg=([^,]+)")
_LIMIT = re.compile(r"^memory: usage \d+kB, limit (\d+)kB")


@dataclass(frozen=True)
class LevelEvidence:
    """One cgroup above the process, and what it has counted since the process was started."""

    name: str
    """As the kernel names it, as far as it can be seen from here."""
    limit_bytes: int | None
    limit_file: str
    kills: int | None = None
    """Processes of this cgroup that the OOM killer ended; None when that cannot be read."""
    limit_hits: int = 0
    """v2: OOMs of this cgroup's own limit. v1: refused charges, which reclaiming page cache causes, too."""
    was_full: bool = False
    """v1: whether it was ever at its limit. Linux 6.18 counts no refused charge where memory and swap have one limit."""


@dataclass(frozen=True)
class LoggedKill:
    """One kill in the kernel's log."""

    pid: int
    name: str
    number: int
    """Of the record; they count from the machine's start."""
    line: str
    of_cgroup: bool = False
    """Whether a cgroup's limit was the reason; else the machine's memory."""
    cgroup: str = ""
    """Whose limit it was; empty when the log leaves that out."""
    limit_bytes: int | None = None


@dataclass(frozen=True)
class OomEvidence:
    """All that tells of OOM kills since a process was started."""

    levels: tuple[LevelEvidence, ...] = ()
    """The leaf cgroup first."""
    machine_kills: int | None = None
    """On the whole machine, by /proc/vmstat; None when that cannot be read."""
    machine_bytes: int | None = None
    log: tuple[LoggedKill, ...] | None = None
    """Kills in the kernel's log; None when it cannot be read, or names pids of another namespace."""

    @property
    def log_is_complete(self) -> bool:
        """Whether a process that the log does not name was not killed: the kernel counts first and logs after."""
        return self.log is not None and self.machine_kills is not None and not self.log_is_behind

    @property
    def log_is_behind(self) -> bool:
        """Whether more was counted than the log names yet."""
        return self.log is not None and len(self.log) < (self.machine_kills or 0)


@dataclass(frozen=True)
class OomKill:
    """The OOM killer ended a process."""

    where: str
    """In words: which cgroup reached which limit."""
    certain: bool = True
    """False when only the machine's own count tells of a kill."""
    line: str = ""
    """What the kernel's log says of it."""


def find_kill(evidence: OomEvidence, pids: Collection[int]) -> OomKill | None:
    """The kill of one of `pids`, all of which have died by SIGKILL; None when nothing tells of one."""
    for kill in evidence.log or ():
        if kill.pid in pids:
            return OomKill(_where(evidence, kill), line=kill.line)
    if evidence.log_is_complete:
        return None
    counts = [level.kills for level in evidence.levels if level.kills is not None]
    if counts:
        return OomKill(_where(evidence, None)) if counts[0] else None
    return OomKill(_machine(evidence), certain=False) if evidence.machine_kills else None


def parse_log(records: Iterable[str]) -> list[LoggedKill]:
    """The kills in records of /dev/kmsg (`priority,number,microseconds,flags;text`), oldest first."""
    kills: list[LoggedKill] = []
    cgroup, limit, of_cgroup = "", None, False
    for record in records:
        text = record.partition(";")[2].partition("\n")[0]
        if "invoked oom-killer" in text:
            cgroup, limit, of_cgroup = "", None, False
        elif found := _LIMIT.match(text):
            limit = int(found[1]) * 1024
        elif found := _CONSTRAINT.search(text):
            of_cgroup = found[1] == "CONSTRAINT_MEMCG"
            named = _OOM_MEMCG.search(text)
            cgroup = named[1] if named else ""
        elif found := _KILLED.search(text):
            of_cgroup |= text.startswith("Memory cgroup out of memory")
            bound = limit if of_cgroup and limit is not None and limit < NO_LIMIT_BYTES else None
            memcg = cgroup if of_cgroup else ""
            kills.append(LoggedKill(int(found[1]), found[2], record_number(record), text, of_cgroup, memcg, bound))
    return kills


def record_number(record: str) -> int:
    """The sequence number of a record; 0 when it has none."""
    number = record.partition(";")[0].split(",")[1:2]
    return int(number[0]) if number and number[0].isdigit() else 0


def _where(evidence: OomEvidence, kill: LoggedKill | None) -> str:
    """Which limit was reached; the log knows it better than the counts."""
    if kill is not None and not kill.of_cgroup:
        return _machine(evidence)
    level = _named(evidence, kill.cgroup) if kill is not None and kill.cgroup else _hit(evidence)
    if level is not None:
        return f"cgroup {level.name} reached its limit of {format_bytes(level.limit_bytes)} ({level.limit_file})"
    if kill is not None:
        which = f"cgroup {kill.cgroup}" if kill.cgroup else "a cgroup"
        limit = f" of {format_bytes(kill.limit_bytes)}" if kill.limit_bytes is not None else ""
        return f"{which}, which cannot be seen from here, reached its limit{limit}"
    if any(level.limit_bytes is not None for level in evidence.levels):
        return "no limit that can be seen from here was reached: the machine, or a cgroup outside, ran out of memory"
    return _machine(evidence)


def _named(evidence: OomEvidence, cgroup: str) -> LevelEvidence | None:
    """The level that the kernel calls so; a namespace shows only the end of its name."""
    exact = [level for level in evidence.levels if level.name == cgroup]
    seen = exact or [level for level in evidence.levels if level.name != "/" and cgroup.endswith(level.name)]
    return next((level for level in seen if level.limit_bytes is not None), None)


def _hit(evidence: OomEvidence) -> LevelEvidence | None:
    bound = [level for level in evidence.levels if level.limit_bytes is not None]
    counted = [level for level in bound if level.limit_hits]
    full = [level for level in bound if level.was_full]
    return next(iter(counted or full), None)


def _machine(evidence: OomEvidence) -> str:
    size = f" ({format_bytes(evidence.machine_bytes)} in all)" if evidence.machine_bytes else ""
    return f"the machine ran out of memory{size}"

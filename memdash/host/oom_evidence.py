"""Gathers what tells of OOM kills around one process: cgroup counters, /proc/vmstat and the kernel's log. Never blocks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memdash.host.capacity import CgroupLevel, cgroup_levels, read_field
from memdash.host.oom_kill import LevelEvidence, LoggedKill, OomEvidence, parse_log, record_number

KMSG = Path("/dev/kmsg")
MAX_RECORDS = 1 << 16  # of the kernel's log at one look; its usual buffer holds a tenth of that
RECORD_BYTES = 8192
FIRST_PID_NAMESPACE = 0xEFFFFFFC


@dataclass(frozen=True)
class OomBaseline:
    """The cgroups of a process and what was counted and logged when it was started."""

    cgroups: list[tuple[str, int, str]]
    """Path, version and name, the leaf first."""
    counts: dict[str, int]
    """Kills and limit hits of each path; kills of the machine."""
    log_number: int | None
    """Of the last record in the kernel's log; None when that cannot be read."""

    @property
    def levels(self) -> list[CgroupLevel]:
        """The cgroups as values that can be asked."""
        return [CgroupLevel(Path(path), version, name) for path, version, name in self.cgroups]


class OomWatch:
    """Follows one process from its start; `root` and `kmsg` are the machine's own but in tests."""

    def __init__(self, baseline: OomBaseline, root: Path = Path("/"), kmsg: Path = KMSG) -> None:
        self.baseline = baseline
        self._root = root
        self._kmsg = kmsg

    @classmethod
    def begin(cls, pid: int, root: Path = Path("/"), kmsg: Path = KMSG) -> OomWatch:
        """From now on."""
        levels = _memory_levels(cgroup_levels(pid, root))
        cgroups = [(str(level.path), level.version, level.name) for level in levels]
        records = _records(kmsg)
        number = None if records is None else max(map(record_number, records), default=0)
        return cls(OomBaseline(cgroups, _counts(levels, root), number), root, kmsg)

    def evidence(self) -> OomEvidence:
        """What has been counted and logged up to now."""
        levels, before = self.baseline.levels, self.baseline.counts
        risen = {key: count - before[key] for key, count in _counts(levels, self._root).items() if key in before}
        total_kib = read_field(self._root / "proc/meminfo", "MemTotal:")
        return OomEvidence(
            levels=tuple(
                LevelEvidence(
                    name=level.name,
                    limit_bytes=level.limit_bytes(),
                    limit_file=str(level.limit_file),
                    kills=risen.get(f"{level.path} kills"),
                    limit_hits=risen.get(f"{level.path} hits", 0),
                    was_full=level.was_full(),
                )
                for level in levels
            ),
            machine_kills=risen.get("machine kills"),
            machine_bytes=total_kib * 1024 if total_kib is not None else None,
            log=self._logged(),
        )

    def kills(self) -> int:
        """Kills in the leaf cgroup since the process was started; cheap enough for once a second."""
        leaf = self.baseline.levels[:1]
        count = read_field(leaf[0].own_events_file, "oom_kill") if leaf else None
        return (count or 0) - self.baseline.counts.get(f"{leaf[0].path} kills", 0) if leaf else 0

    def together(self) -> CgroupLevel | None:
        """The outermost cgroup of which one OOM ends everything, the supervisor too."""
        return next((level for level in reversed(self.baseline.levels) if level.kills_together()), None)

    def _logged(self) -> tuple[LoggedKill, ...] | None:
        after = self.baseline.log_number
        records = _records(self._kmsg) if after is not None else None
        if records is None:
            return None
        return tuple(kill for kill in parse_log(records) if kill.number > (after or 0))


def _memory_levels(levels: list[CgroupLevel]) -> list[CgroupLevel]:
    """Memory belongs to one hierarchy: where it is v1's, an empty v2 is mounted beside it."""
    return [level for level in levels if level.version == 1] or levels


def _counts(levels: list[CgroupLevel], root: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    for level in levels:
        kills = read_field(level.own_events_file, "oom_kill")
        if kills is not None:
            counts |= {f"{level.path} kills": kills, f"{level.path} hits": level.limit_hits()}
    machine = read_field(root / "proc/vmstat", "oom_kill")
    return counts if machine is None else {**counts, "machine kills": machine}


def _records(path: Path) -> list[str] | None:
    """The records of the kernel's log, oldest first; None when it cannot be read or names pids of another namespace."""
    try:
        if path == KMSG and os.stat("/proc/self/ns/pid").st_ino != FIRST_PID_NAMESPACE:
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return [record.decode(errors="replace") for record in _read(descriptor)]
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> Iterator[bytes]:
    """One read(2) a record, as /dev/kmsg gives them."""
    for _ in range(MAX_RECORDS):
        try:
            record = os.read(descriptor, RECORD_BYTES)
        except BrokenPipeError:  # it was overwritten before we came to it; the next read goes on
            continue
        except BlockingIOError:
            return
        if not record:
            return
        yield record

"""The memory cgroups above a process, v1 and v2, and what their files say.

psutil and /proc/meminfo know only the machine; in a container the limit of any ancestor cgroup kills first.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path, PurePosixPath

from memdash.host import kept

NO_LIMIT = 1 << 60  # v1 writes about 2**63 for "none"
CHARGED_AT_ONCE = 1 << 20  # the kernel takes pages in batches, 64 of them or a huge one: no peak is nearer to a limit


@dataclass(frozen=True)
class CgroupLevel:
    """One cgroup directory above a process."""

    path: Path
    version: int
    name: str = ""
    """As the kernel's log names it, as far as it can be seen from here: `/user.slice/job`."""

    @property
    def limit_file(self) -> Path:
        """The hard limit."""
        return self.path / ("memory.max" if self.version == 2 else "memory.limit_in_bytes")

    @property
    def usage_file(self) -> Path:
        """Bytes in use, page cache included."""
        return self.path / ("memory.current" if self.version == 2 else "memory.usage_in_bytes")

    @property
    def inactive_field(self) -> str:
        """Page cache that can be given back, by its name in memory.stat, descendants included."""
        return "inactive_file" if self.version == 2 else "total_inactive_file"

    @property
    def events_file(self) -> Path:
        """Where events of the cgroup are counted; on v2 those of all cgroups below, too."""
        return self.path / ("memory.events" if self.version == 2 else "memory.oom_control")

    @property
    def own_events_file(self) -> Path:
        """Where those of the cgroup alone are counted."""
        local = self.path / "memory.events.local"
        return local if self.version == 2 and local.exists() else self.events_file

    def limit_hits(self) -> int:
        """How often the hard limit was in the way; on v1 that includes each time when page cache was dropped instead."""
        if self.version == 1:
            # a limit on memory and swap together is reached first, where it is the same
            counts = (_number(self.path / f"memory.{name}failcnt") for name in ("", "memsw."))
            return sum(count or 0 for count in counts)
        return read_field(self.own_events_file, "oom") or 0

    def was_full(self) -> bool:
        """Whether usage has ever been at the limit, by v1's high-water mark; v2 counts what it did at its limit."""
        limit, peak = self.limit_bytes(), _number(self.path / "memory.max_usage_in_bytes")
        return self.version == 1 and limit is not None and peak is not None and peak > limit - CHARGED_AT_ONCE

    def limit_bytes(self) -> int | None:
        """The hard limit, or None for none."""
        return _limit(self.limit_file)

    def usage_bytes(self) -> int | None:
        """Bytes in use now, or None when that cannot be read."""
        return _number(self.usage_file)

    def kills_together(self) -> bool:
        """Whether one OOM ends every process of the cgroup (v2 memory.oom.group), a supervisor's too."""
        return self.version == 2 and _number(self.path / "memory.oom.group") == 1

    def throttle_bytes(self) -> int | None:
        """Where the kernel begins to slow the cgroup down (v2 memory.high), or None for nowhere."""
        return _limit(self.path / "memory.high") if self.version == 2 else None


def cgroup_levels(pid: int | str = "self", root: Path = Path("/")) -> list[CgroupLevel]:
    """The memory cgroup directories of `pid` from the leaf up to the mount point, v1 and v2, as they are called here."""
    try:
        memberships = (root / f"proc/{pid}/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()  # a container tool may show `pid` others
    except OSError:
        return []
    mounts = [line for line in mounts if " - cgroup" in line]  # of hundreds, and this is asked every second
    levels = []
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        version = 2 if controllers == "" else 1
        if version == 1 and "memory" not in controllers.split(","):
            continue
        mount = _mount(mounts, version, PurePosixPath(path))
        if mount is not None:
            levels += _ancestors(PurePosixPath(path), *mount, version, root, os.getpid() if pid == "self" else int(pid))
    return levels


def read_field(path: Path, name: str) -> int | None:
    """The number after `name` in a file of `name number` lines; None when it cannot be had."""
    try:
        text = kept.read(path)
    except OSError:
        return None
    match = _field(name).search(text)
    return int(match[1]) if match else None


def read_fields(path: Path) -> dict[str, int]:
    """Every `name number` line of a file; empty when it cannot be read."""
    try:
        lines = kept.read(path).decode().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines)
    return {field[0]: int(field[1]) for field in fields if len(field) > 1 and field[1].isdigit()}


@cache
def _field(name: str) -> re.Pattern[bytes]:
    return re.compile(rf"^{re.escape(name)}\s+(\d+)".encode(), re.MULTILINE)


def _mount(mounts: list[str], version: int, path: PurePosixPath) -> tuple[str, str] | None:
    """Root and mount point of the memory hierarchy: of several, the one that shows the most of what is above `path`."""
    roots: dict[str, str] = {}
    for line in mounts:
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if (version == 2 and kind == "cgroup2") or (
            version == 1 and kind == "cgroup" and "memory" in options.split(" ")[-1].split(",")
        ):
            mount_root, mount_point = left.split(" ")[3:5]
            roots[mount_point] = mount_root  # a later mount hides an earlier one at the same place
    found = [(mount_root, mount_point) for mount_point, mount_root in roots.items()]
    return min(found, key=lambda mount: (not path.is_relative_to(mount[0]), len(mount[0])), default=None)


def _ancestors(
    path: PurePosixPath, mount_root: str, mount_point: str, version: int, root: Path, pid: int
) -> list[CgroupLevel]:
    top = root / mount_point.lstrip("/")
    if mount_root.startswith("/.."):  # the mount is older than our namespace, and shows what is above it
        leaf = _searched(top, mount_root.count(".."), path.relative_to("/"), pid)
        mount_root = "/"
    else:
        leaf = top / path.relative_to(mount_root if path.is_relative_to(mount_root) else "/")
    if ".." in path.parts or not leaf.is_dir():  # it lies outside of what our namespace shows: all we see is the top
        leaf = top
    chain = [leaf, *leaf.parents]
    outside = "" if mount_root == "/" else mount_root
    names = (f"{outside}/{level.relative_to(top)}".removesuffix("/.") or "/" for level in chain)
    return [
        CgroupLevel(level, version, name) for level, name in zip(chain[: chain.index(top) + 1], names, strict=False)
    ]


@lru_cache
def _searched(top: Path, depth: int, path: PurePosixPath, pid: int) -> Path:
    """The directory that lists `pid`, at `path` below one so deep under the top; the top where there is none."""
    for base in top.glob("/".join("*" * depth)):
        if str(pid) in _words(base / path / "cgroup.procs"):
            return base / path
    return top


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _limit(path: Path) -> int | None:
    limit = _number(path)  # None: it says "max"
    return limit if limit is not None and limit < NO_LIMIT else None


def _number(path: Path) -> int | None:
    try:
        return int(kept.read(path))
    except (OSError, ValueError):
        return None

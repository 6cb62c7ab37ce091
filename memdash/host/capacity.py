"""The memory limit that really applies to a process: the lowest of its cgroups, v1 and v2, and the machine.

psutil and /proc/meminfo know only the machine; in a container the limit of any ancestor cgroup kills first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

NO_LIMIT = 1 << 60  # v1 writes about 2**63 for "none"


@dataclass(frozen=True)
class Capacity:
    """A ceiling in bytes and the files that tell how much below it is in use."""

    limit_bytes: int
    source: str
    """The file that names the limit."""
    level: CgroupLevel | None = None
    """The cgroup whose limit binds; None when the machine itself does."""


@dataclass(frozen=True)
class CgroupLevel:
    """One cgroup directory above a process."""

    path: Path
    version: int

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
        """Where `oom_kill` is counted."""
        return self.path / ("memory.events" if self.version == 2 else "memory.oom_control")

    def limit_bytes(self) -> int | None:
        """The hard limit, or None for none."""
        return _limit(self.limit_file)


def effective_capacity(pid: int | str = "self", root: Path = Path("/")) -> Capacity:
    """The lowest ceiling over `pid`: every ancestor cgroup and the machine. `root` is `/` but in tests."""
    best = machine_capacity(root)
    for level in cgroup_levels(pid, root):
        limit = level.limit_bytes()
        if limit is not None and limit <= best.limit_bytes:  # a tie goes to the outer one: it kills all of us
            best = Capacity(limit, str(level.limit_file), level)
        if level.version == 1:
            hidden = read_field(level.path / "memory.stat", "hierarchical_memory_limit")
            if hidden is not None and hidden < min(best.limit_bytes, NO_LIMIT):  # an ancestor outside our namespace
                best = Capacity(hidden, f"{level.path}/memory.stat: hierarchical_memory_limit", level)
    return best


def machine_capacity(root: Path = Path("/")) -> Capacity:
    """MemTotal, by /proc or (where there is none) psutil."""
    total_kib = read_field(root / "proc/meminfo", "MemTotal:")
    if total_kib is not None:
        return Capacity(total_kib * 1024, "/proc/meminfo: MemTotal")
    import psutil

    return Capacity(psutil.virtual_memory().total, "psutil.virtual_memory().total")


def cgroup_levels(pid: int | str = "self", root: Path = Path("/")) -> list[CgroupLevel]:
    """The memory cgroup directories of `pid` from the leaf up to the mount point, v1 and v2."""
    try:
        memberships = (root / f"proc/{pid}/cgroup").read_text().splitlines()
        mounts = (root / f"proc/{pid}/mountinfo").read_text().splitlines()
    except OSError:
        return []
    levels = []
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        version = 2 if controllers == "" else 1
        if version == 1 and "memory" not in controllers.split(","):
            continue
        mount = _mount(mounts, version)
        if mount is not None:
            levels += _ancestors(path, *mount, version, root)
    return levels


def oom_kills(levels: list[CgroupLevel]) -> int:
    """How often the kernel's OOM killer struck in the leaf cgroup or any ancestor (the largest count)."""
    return max((read_field(level.events_file, "oom_kill") or 0 for level in levels), default=0)


def read_field(path: Path, name: str) -> int | None:
    """The number after `name` in a file of `name number` lines; None when it cannot be had."""
    try:
        text = path.read_text()
    except OSError:
        return None
    match = re.search(rf"^{re.escape(name)}\s+(\d+)", text, re.MULTILINE)
    return int(match[1]) if match else None


def _mount(mounts: list[str], version: int) -> tuple[str, str] | None:
    """Root and mount point of the memory hierarchy."""
    for line in mounts:
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        if (version == 2 and kind == "cgroup2") or (
            version == 1 and kind == "cgroup" and "memory" in options.split(" ")[-1].split(",")
        ):
            fields = left.split(" ")
            return fields[3], fields[4]
    return None


def _ancestors(path: str, mount_root: str, mount_point: str, version: int, root: Path) -> list[CgroupLevel]:
    top = root / mount_point.lstrip("/")
    below = path if mount_root == "/" else path.removeprefix(mount_root)
    leaf = top / below.lstrip("/")
    if not leaf.is_dir():  # a namespace shows us a path that is not there: only the mount point is ours to see
        leaf = top
    chain = [leaf, *leaf.parents]
    return [CgroupLevel(level, version) for level in chain[: chain.index(top) + 1]]


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    if not text.isdigit():  # "max"
        return None
    limit = int(text)
    return limit if limit < NO_LIMIT else None

"""Samples CPU RAM from outside the training process, often, and reports the peak between two reports."""

from __future__ import annotations

import os
from pathlib import Path

from memdash.host.capacity import Capacity, cgroup_levels, effective_capacity, oom_kills, read_field
from memdash.host.process_tree import ProcessTree
from memdash.wire import HostMemory

REFRESH_EVERY = 10  # samples between looks for new processes and limits


class HostSampler:
    """Follows one process tree; `sample` is called at 10 Hz, `report` when a figure is wanted."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._tree = ProcessTree(pid) if os.path.isdir("/proc/self/task") else None
        self._levels = cgroup_levels(pid)
        self.capacity = effective_capacity(pid)
        self._oom_kills_before = oom_kills(self._levels)
        self._count = 0
        self._peak_bytes = 0
        self._last: tuple[int, int, int] = (0, 0, 0)

    def sample(self) -> None:
        """Read once and remember the peak."""
        if self._count % REFRESH_EVERY == 0:
            if self._tree:
                self._tree.refresh()
            if os.path.isdir(f"/proc/{self._pid}"):
                self.capacity = effective_capacity(self._pid)
        self._count += 1
        process_bytes, count = self._tree.rss_bytes() if self._tree else _psutil_tree(self._pid)
        used_bytes = working_set_bytes(self.capacity)
        self._peak_bytes = max(self._peak_bytes, used_bytes)
        self._last = (process_bytes, count, used_bytes)

    def report(self) -> HostMemory:
        """The last sample, with the peak since the report before."""
        process_bytes, count, used_bytes = self._last
        peak_bytes, self._peak_bytes = max(self._peak_bytes, used_bytes), 0
        return HostMemory(
            kind="exact",
            process_bytes=process_bytes,
            num_processes=count,
            working_set_bytes=used_bytes,
            peak_working_set_bytes=peak_bytes,
            capacity_bytes=self.capacity.limit_bytes,
            capacity_source=self.capacity.source,
        )

    def oom_kills(self) -> int:
        """Kills by the kernel's OOM killer in our cgroups since the sampler was made."""
        return oom_kills(self._levels) - self._oom_kills_before

    def close(self) -> None:
        """Close every descriptor."""
        if self._tree:
            self._tree.close()


def working_set_bytes(capacity: Capacity) -> int:
    """What counts against the capacity and cannot be reclaimed: usage less inactive page cache."""
    if (level := capacity.level) is not None:
        usage = _number(level.usage_file)
        if usage is not None:
            return max(0, usage - (read_field(level.path / "memory.stat", level.inactive_field) or 0))
    available_kib = read_field(Path("/proc/meminfo"), "MemAvailable:")
    if available_kib is not None:
        return capacity.limit_bytes - available_kib * 1024
    import psutil

    memory = psutil.virtual_memory()
    return int(memory.total - memory.available)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _psutil_tree(pid: int) -> tuple[int, int]:
    """Where there is no /proc: the sum of RSS, shared pages counted in each process."""
    import psutil

    try:
        root = psutil.Process(pid)
        sizes = [process.memory_info().rss for process in (root, *root.children(recursive=True))]
    except psutil.Error:
        return 0, 0
    return sum(sizes), len(sizes)

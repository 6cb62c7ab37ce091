"""Samples CPU RAM from outside the training process, often, and reports it with the peak between two reports."""

from __future__ import annotations

import os
import time
from pathlib import Path

from memdash.host.capacity import CgroupLevel, cgroup_levels, read_field
from memdash.host.ceilings import Ceiling, binding, find_ceilings
from memdash.host.pressure import Pressure, pressure_file
from memdash.host.process_tree import ProcessTree, TreeReading
from memdash.wire import HostMemory

REFRESH_EVERY = 10  # samples between looks for new processes, and at which ceiling is nearest
LIMITS_EVERY = 50  # samples between looks for limits that came, went or were moved
FIRST_MEASURE, LAST_MEASURE = 20, 3000  # samples between measurements of what forked processes share: doubled each time
SHM = "/dev/shm"


class HostSampler:
    """Follows one process tree; `sample` is called at 10 Hz, `report` when a figure is wanted.

    Without /proc (macOS) psutil tells, with shared pages counted in each process. `root` is `/` but in tests.
    """

    def __init__(self, pid: int, budget_bytes: int = 0, *, reset_peaks: bool = True, root: Path = Path("/")) -> None:
        self._pid = pid
        self._budget_bytes = budget_bytes
        self._root = root
        self._tree = ProcessTree(pid, reset_peaks) if (root / "proc/self").is_dir() else None
        self._levels = cgroup_levels(pid, root)
        self.pressure_file = pressure_file(self._levels, root)
        """What tells how long processes wait for memory."""
        self.num_alarms = 0
        """How often the kernel has told so at once."""
        self._pressure = Pressure(self.pressure_file)
        self._ceilings = find_ceilings(pid, budget_bytes, root)
        self._throttled_before = _throttled(self._levels)
        self._count = 0
        self._measure_in = self._measure_wait = FIRST_MEASURE
        self._reading = self._read_tree()
        self.ceiling: Ceiling = binding(self._ceilings, self._reading)
        self._fill = self.ceiling.fill(self._reading)
        self._peak_bytes = self._tree_peak_bytes = 0
        self._shm = _shm()
        self.shm_peak_bytes = 0
        """The most that was ever seen in /dev/shm."""

    @property
    def pids(self) -> tuple[int, ...]:
        """The process and its descendants, as they were last seen."""
        return self._tree.pids if self._tree else (self._pid,)

    def sample(self) -> None:
        """Read once and remember the peak."""
        if self._count % REFRESH_EVERY == 0:
            self._refresh()
        self._count += 1
        self._measure_sharing()
        self._reading = self._read_tree()
        self._fill = self.ceiling.fill(self._reading)
        self._tree_peak_bytes = max(self._tree_peak_bytes, self._reading.rss_bytes)
        self._peak_bytes = max(self._peak_bytes, self._fill.used_bytes)
        self._shm = _shm()
        self.shm_peak_bytes = max(self.shm_peak_bytes, self._shm[0] or 0)

    def report(self) -> HostMemory:
        """The last sample, with the peak since the report before: the kernel's own where it keeps one."""
        above = self._tree.take_peak() if self._tree else 0
        used, rss = self._fill.used_bytes, self._reading.rss_bytes
        peak = max(self._peak_bytes, min(self.ceiling.limit_bytes, used + above))
        tree_peak = max(self._tree_peak_bytes, rss + above)
        self._peak_bytes = self._tree_peak_bytes = 0
        stalled = self._pressure.read(time.monotonic())
        return HostMemory(
            kind="exact" if self._tree else "estimated",
            process_bytes=rss,
            peak_process_bytes=tree_peak,
            main_process_bytes=self._reading.main_bytes,
            num_processes=self._reading.count,
            swap_bytes=self._tree.swap_bytes if self._tree else 0,
            working_set_bytes=used,
            peak_working_set_bytes=max(used, peak),
            reclaimable_bytes=self._fill.reclaimable_bytes,
            capacity_bytes=self.ceiling.limit_bytes,
            capacity_source=self.ceiling.source,
            throttle_bytes=min((high for level in self._levels if (high := level.throttle_bytes())), default=None),
            num_throttled=_throttled(self._levels) - self._throttled_before,
            stalled_some=stalled.some if stalled else None,
            stalled_full=stalled.full if stalled else None,
            num_stall_alarms=self.num_alarms,
            shm_bytes=self._shm[0],
            shm_capacity_bytes=self._shm[1],
        )

    def close(self) -> None:
        """Close every descriptor."""
        if self._tree:
            self._tree.close()

    def _refresh(self) -> None:
        """Processes and limits come and go."""
        if self._tree and self._tree.refresh():
            self._measure_in = self._measure_wait = FIRST_MEASURE
        if self._count % LIMITS_EVERY == 0 and (self._root / f"proc/{self._pid}").is_dir():
            self._ceilings = find_ceilings(self._pid, self._budget_bytes, self._root)
        held = next((one for one in self._ceilings if one == self.ceiling), None)
        self.ceiling = binding(self._ceilings, self._reading, held)

    def _measure_sharing(self) -> None:
        """What a fork left in common is written to, and so copied, as time goes on: ask again, but ever more rarely."""
        if self._tree is None:
            return
        self._measure_in -= 1
        if self._measure_in <= 0:
            self._measure_wait = min(2 * self._measure_wait, LAST_MEASURE)
            self._measure_in = self._measure_wait
            self._tree.measure_sharing()
        self._tree.measure_next()

    def _read_tree(self) -> TreeReading:
        return self._tree.read() if self._tree else _psutil_tree(self._pid)


def _throttled(levels: list[CgroupLevel]) -> int:
    """How often the kernel has slowed processes down for one of our cgroups' memory.high; a cousin's does not count."""
    return sum(read_field(level.own_events_file, "high") or 0 for level in levels if level.version == 2)


def _shm() -> tuple[int | None, int | None]:
    """Used bytes and size of the shared memory that DataLoader workers hand batches over in."""
    try:
        found = os.statvfs(SHM)
    except OSError:
        return None, None
    return (found.f_blocks - found.f_bfree) * found.f_frsize, found.f_blocks * found.f_frsize


def _psutil_tree(pid: int) -> TreeReading:
    """Where there is no /proc: the sum of RSS, shared pages counted in each process."""
    import psutil

    try:
        root = psutil.Process(pid)
        sizes = [process.memory_info().rss for process in (root, *root.children(recursive=True))]
    except psutil.Error:
        return TreeReading(0, 0)
    return TreeReading(sum(sizes), len(sizes))

"""The resident memory of a process and all its descendants, read from /proc; and the peaks that samples miss."""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
RESET_PEAK = b"5"  # to clear_refs: VmHWM starts again at VmRSS
_HWM = re.compile(rb"^VmHWM:\s+(\d+) kB", re.MULTILINE)
_RSS = re.compile(rb"^VmRSS:\s+(\d+) kB", re.MULTILINE)
_SWAP = re.compile(rb"^VmSwap:\s+(\d+) kB", re.MULTILINE)
_PSS_ANON = re.compile(rb"^Pss_Anon:\s+(\d+) kB", re.MULTILINE)


@dataclass(frozen=True)
class TreeReading:
    """A process with its descendants at one moment; bytes."""

    rss_bytes: int
    """Resident, pages that several of them share counted once."""
    count: int
    """How many processes."""
    main_bytes: int = 0
    """Resident, of the first process alone."""
    vm_size_bytes: int = 0
    """Address space of the first process alone."""
    vm_data_bytes: int = 0
    """Its private writable part, stack included."""


@dataclass
class _Process:
    """Open descriptors of one process: a read costs about a microsecond, opening ten."""

    statm: int
    status: int
    clear_refs: int | None
    """None when peaks are not to be reset, or cannot be."""
    most_shared: int = 0
    """The most file pages that a sample has seen since the last peak was taken."""
    swap_bytes: int = 0

    def close(self) -> None:
        for descriptor in (self.statm, self.status, self.clear_refs):
            if descriptor is not None:
                os.close(descriptor)


@dataclass
class ProcessTree:
    """Follows one process and whatever it starts."""

    root: int
    reset_peaks: bool = True
    """Whether peaks between two readings are looked for. That resets `ru_maxrss` of the processes, too."""
    _processes: dict[int, _Process] = field(default_factory=dict)
    _unmeasured: deque[int] = field(default_factory=deque)
    _twice: dict[int, int] = field(default_factory=dict)
    _shared_twice_bytes: int = 0
    _found: deque[set[int]] = field(default_factory=lambda: deque(maxlen=2))

    def refresh(self) -> bool:
        """Look for processes that came and went; whether there were any. Ask this once a second or so."""
        pids = descendants(self.root)
        self._found.append(pids)
        gone = self._processes.keys() - pids
        for pid in gone:
            self._processes.pop(pid).close()
        new = pids - self._processes.keys()
        for pid in new:
            with contextlib.suppress(OSError):
                self._processes[pid] = self._open(pid)
        return bool(gone or new)

    @property
    def pids(self) -> tuple[int, ...]:
        """Those that the last refresh has found, and the one before: some may have just ended."""
        return tuple(set[int]().union(*self._found))

    def read(self) -> TreeReading:
        """All of them now.

        File pages and shared memory count only in the process where they are largest. Pages that a fork has left
        in common look private to each; `measure_next` finds out how many are counted twice.
        """
        largest_shared, total, count, main, size, data = 0, 0, 0, 0, 0, 0
        for pid, process in self._processes.items():
            try:
                fields = os.pread(process.statm, 256, 0).split()
            except OSError:  # it has ended
                continue
            if len(fields) < 6 or fields[1] == b"0":
                continue
            resident, shared = int(fields[1]) * PAGE_BYTES, int(fields[2]) * PAGE_BYTES
            process.most_shared = max(process.most_shared, shared)
            largest_shared = max(largest_shared, shared)
            total += resident - shared
            count += 1
            if pid == self.root:
                main, size, data = resident, int(fields[0]) * PAGE_BYTES, int(fields[5]) * PAGE_BYTES
        twice = min(self._shared_twice_bytes, total) if count > 1 else 0
        return TreeReading(total + largest_shared - twice, count, main, size, data)

    def take_peak(self) -> int:
        """How far above the present they have been since the last call, in bytes, by the kernel's high-water marks.

        The sum over the processes: exact for one, an upper bound where several peaked at different times. File
        pages that a sample has seen come and go are left out: the kernel could have dropped them at any time.
        """
        above = 0
        for process in self._processes.values():
            try:
                status = os.pread(process.status, 4096, 0)
                if process.clear_refs is not None:
                    os.pwrite(process.clear_refs, RESET_PEAK, 0)
                shared = int(os.pread(process.statm, 256, 0).split()[2]) * PAGE_BYTES
            except (OSError, IndexError):
                continue
            process.swap_bytes = _kib(_SWAP, status)
            if not self.reset_peaks:  # then the mark is that of the process's whole life
                continue
            dropped = max(0, process.most_shared - shared)
            process.most_shared = shared
            above += max(0, _kib(_HWM, status) - _kib(_RSS, status) - dropped)
        return above

    @property
    def swap_bytes(self) -> int:
        """What of them was swapped out, when the peak was taken last."""
        return sum(process.swap_bytes for process in self._processes.values())

    # ---- pages that a fork has left in common ----

    def measure_sharing(self) -> None:
        """Have the processes measured anew, one at each `measure_next`."""
        self._unmeasured = deque(self._processes) if len(self._processes) > 1 else deque()
        self._twice.clear()

    def measure_next(self) -> None:
        """Read one process's proportional set size: 6 to 31 ms for 0.4 to 3.3 GB, and so never on a timer."""
        if not self._unmeasured:
            return
        pid = self._unmeasured.popleft()
        with contextlib.suppress(OSError, KeyError, IndexError):
            fields = os.pread(self._processes[pid].statm, 256, 0).split()
            proportional = _PSS_ANON.search(Path(f"/proc/{pid}/smaps_rollup").read_bytes())
            if proportional:  # kernels before 5.9 do not tell
                private = (int(fields[1]) - int(fields[2])) * PAGE_BYTES
                self._twice[pid] = private - int(proportional[1]) * 1024
        if not self._unmeasured:
            self._shared_twice_bytes = max(0, sum(self._twice.values()))

    def close(self) -> None:
        """Close every descriptor."""
        while self._processes:
            self._processes.popitem()[1].close()

    def _open(self, pid: int) -> _Process:
        statm = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(statm)
            raise
        clear_refs = None
        if self.reset_peaks:
            with contextlib.suppress(OSError):
                clear_refs = os.open(f"/proc/{pid}/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
        return _Process(statm, status, clear_refs)


def _kib(pattern: re.Pattern[bytes], text: bytes) -> int:
    found = pattern.search(text)
    return int(found[1]) * 1024 if found else 0


def descendants(pid: int) -> set[int]:
    """`pid` and everything it has started, as far as it is still alive."""
    found: set[int] = set()
    to_ask = [pid]
    while to_ask:
        asked = to_ask.pop()
        children = _children(asked)
        if children is not None:
            found.add(asked)
            to_ask += children
        elif os.path.exists(f"/proc/{asked}/task") or not os.path.isdir("/proc/self/task"):
            return _descendants_by_parents(pid)
    return found


def _children(pid: int) -> list[int] | None:
    """Those that the threads of a process have started; None when it has gone, or this kernel keeps no such lists."""
    try:
        files = [f"/proc/{pid}/task/{thread}/children" for thread in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return None
    children: list[int] | None = None
    for file in files:
        with contextlib.suppress(OSError):  # a thread that has just ended
            descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                children = [*(children or []), *map(int, os.read(descriptor, 1 << 16).split())]
            finally:
                os.close(descriptor)
    return children


def _descendants_by_parents(pid: int) -> set[int]:
    """The same from the parents of all processes of the machine, which takes milliseconds."""
    try:
        return {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    except psutil.Error:
        return set()

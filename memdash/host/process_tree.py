"""The resident memory of a process and all its descendants, read from /proc."""

from __future__ import annotations

import contextlib
import os

import psutil

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessTree:
    """Keeps a statm descriptor open per process: a read costs about a microsecond."""

    def __init__(self, root_pid: int) -> None:
        self._root = root_pid
        self._statm: dict[int, int] = {}

    def refresh(self) -> None:
        """Look for processes that came and went; ask this once a second or so."""
        pids = descendants(self._root)
        for pid in [pid for pid in self._statm if pid not in pids]:
            os.close(self._statm.pop(pid))
        for pid in pids - self._statm.keys():
            with contextlib.suppress(OSError):
                self._statm[pid] = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)

    def rss_bytes(self) -> tuple[int, int]:
        """Resident bytes and number of the processes that are still there.

        Pages that processes share (file maps, copy-on-write after a fork) count only in the process where they are
        largest: each further process adds what is its own, resident less shared.
        """
        largest_shared, total, count = 0, 0, 0
        for descriptor in self._statm.values():
            try:
                fields = os.pread(descriptor, 256, 0).split()
            except OSError:  # it has ended
                continue
            if len(fields) < 3 or fields[1] == b"0":
                continue
            resident, shared = int(fields[1]) * PAGE_BYTES, int(fields[2]) * PAGE_BYTES
            largest_shared = max(largest_shared, shared)
            total += resident - shared
            count += 1
        return total + largest_shared, count

    def close(self) -> None:
        """Close every descriptor."""
        while self._statm:
            os.close(self._statm.popitem()[1])


def descendants(pid: int) -> set[int]:
    """`pid` and everything it has started, as far as it is still alive."""
    try:
        return {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    except psutil.Error:
        return set()

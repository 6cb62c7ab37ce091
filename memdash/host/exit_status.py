"""What the kernel tells of a process that is not our child: when it was started, and how it ended."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

_PIDFD_GET_INFO = (3 << 30) | (64 << 16) | (0xFF << 8) | 11  # _IOWR(0xFF, 11, struct pidfd_info), Linux 6.13
_PIDFD_INFO_EXIT = 1 << 3  # Linux 6.15
_INFO = struct.Struct("<Q 52x i")  # mask in and out, then what we do not ask for, then the wait status


def process_start(pid: int) -> int | None:
    """Clock ticks from the machine's start to the process's: with its pid, what no other process has."""
    fields = stat_fields(pid)
    return int(fields[19]) if len(fields) > 19 else None


def stat_fields(pid: int) -> list[str]:
    """/proc/PID/stat from the state on; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def exit_code(pid: int, pidfd: int | None) -> int | None:
    """How a process ended that another one was the parent of: negative for a signal; None when that is not told.

    A zombie still says it in /proc; once it is reaped, only a pidfd that was opened before does, from Linux 6.15 on.
    """
    status = _of_zombie(pid)
    if status is None and pidfd is not None:
        status = _of_pidfd(pidfd)
    return None if status is None else os.waitstatus_to_exitcode(status)


def _of_zombie(pid: int) -> int | None:
    fields = stat_fields(pid)
    return int(fields[49]) if fields[:1] == ["Z"] and len(fields) > 49 else None


def _of_pidfd(pidfd: int) -> int | None:
    answer = bytearray(_INFO.pack(_PIDFD_INFO_EXIT, 0))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, answer)
    except OSError:  # an older kernel
        return None
    mask, status = _INFO.unpack(answer)
    return status if mask & _PIDFD_INFO_EXIT else None

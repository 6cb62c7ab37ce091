"""Whose the processes on a GPU are: this run's, somebody else's, or not to be told from inside a container.

Some NVIDIA drivers number processes as the host does, some as the container that asks. On the host that is the same. In a
container a number that we know counts only when its process holds an NVIDIA device open; the rest is left open, not guessed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
INITIAL_NAMESPACE = "pid:[4026531836]"  # a constant of the kernel: PROC_PID_INIT_INO
NOT_TO_BE_MATCHED = "the driver's process numbers are not this container's: share the host's (--pid=host) to see whose"


def whose(pids: Iterable[int], tree: set[int], proc: Path = PROC) -> dict[int, bool | None]:
    """For each process on a GPU whether it belongs to the process tree of this run; None when that cannot be told."""
    if _link(proc / "self/ns/pid") == INITIAL_NAMESPACE:
        return {pid: pid in tree for pid in pids}
    pids = set(pids)
    known = {number for pid in tree for number in _numbers(pid, proc) if number in pids and _uses_nvidia(pid, proc)}
    # one number that fits shows that the driver counts as we do; then the others are not ours
    return {pid: pid in known if known else None for pid in pids}


def process_name(pid: int, proc: Path = PROC) -> str:
    """Its command; empty when it has vanished or is hidden from us."""
    try:
        return (proc / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return ""


def _numbers(pid: int, proc: Path) -> set[int]:
    """What a process is called in each of the namespaces that we can see it in."""
    try:
        status = (proc / str(pid) / "status").read_text()
    except OSError:
        return set()
    return {int(number) for line in status.splitlines() if line.startswith("NSpid:") for number in line.split()[1:]}


def _uses_nvidia(pid: int, proc: Path) -> bool:
    try:
        return any(_link(path).startswith("/dev/nvidia") for path in (proc / str(pid) / "fd").iterdir())
    except OSError:
        return False


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""

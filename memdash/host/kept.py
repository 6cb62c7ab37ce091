"""Small files of the kernel, kept open: reading one again costs a microsecond, opening it ten."""

from __future__ import annotations

import os
import threading

MOST = 64
MAX_BYTES = 1 << 16


class _Kept(threading.local):
    """Each thread has its own, until the process ends: what one closes, another may be about to read."""

    def __init__(self) -> None:
        self.descriptors: dict[str, int] = {}


_kept = _Kept()


def read(path: str | os.PathLike[str]) -> bytes:
    """What a file says now; one of /proc or /sys stays open for the next time. Raises OSError."""
    name = os.fspath(path)
    if not name.startswith(("/proc/", "/sys/")):  # any other may be replaced by one of the same name
        with open(name, "rb") as file:
            return file.read()
    descriptors = _kept.descriptors
    descriptor = descriptors.get(name)
    if descriptor is not None:
        try:
            return os.pread(descriptor, MAX_BYTES, 0)
        except OSError:  # the process or cgroup has gone; there may be another of its name
            os.close(descriptors.pop(name))
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.pread(descriptor, MAX_BYTES, 0)
    except OSError:
        os.close(descriptor)
        raise
    if len(descriptors) >= MOST:
        os.close(descriptors.pop(next(iter(descriptors))))
    descriptors[name] = descriptor
    return data

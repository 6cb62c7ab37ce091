"""Lets the kernel wake the supervisor when processes wait for memory, between two beats. Called in its one thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from memdash.host.pressure import PressureTrigger


class PressureAlarm:
    """Calls `rung` at most once in two seconds; where the kernel takes no trigger, never."""

    def __init__(self, rung: Callable[[], None], trigger: Callable[[Path], PressureTrigger] = PressureTrigger) -> None:
        self._rung = rung
        self._make = trigger
        self._path: Path | None = None
        self._trigger: PressureTrigger | None = None

    def follow(self, path: Path | None) -> None:
        """Listen to this file of the kernel's, or to none."""
        if path == self._path:
            return
        self.close()
        self._path = path
        if path is None:
            return
        try:
            self._trigger = self._make(path)
        except (OSError, AttributeError):  # no such file, no right to it, or no epoll on this system
            return
        asyncio.get_running_loop().add_reader(self._trigger.fileno(), self._look, self._trigger)

    def close(self) -> None:
        """Listen no more."""
        if self._trigger is not None:
            asyncio.get_running_loop().remove_reader(self._trigger.fileno())
            self._trigger.close()
        self._path = self._trigger = None

    def _look(self, trigger: PressureTrigger) -> None:
        try:
            trigger.look()
        except OSError:
            path = self._path
            self.close()
            self._path = path  # not again for the same one
            return
        self._rung()

"""Torch's memory snapshots: pickles for pytorch.org/memory_viz, which memdash writes and never reads."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

from memdash import wire
from memdash.agent.session import Session
from memdash.errors import MemdashError
from memdash.units import GIB, format_bytes
from runner.device import Device

KEEP = 5
ROOM_BYTES = GIB  # a full history of stacks takes some hundred MB; its size is known only once it is written
WHERE_TO_OPEN = "open it at pytorch.org/memory_viz, which reads it in the browser"


class Snapshots:
    """The newest few of a run, each complete or absent."""

    def __init__(self, folder: Path, device: Device, *, has_history: bool) -> None:
        self._folder = folder
        self._device = device
        self._has_history = has_history

    def offer(self, session: Session) -> None:
        """Let people ask for one, or tell them why they cannot."""
        reason = self._device.no_snapshot
        if not reason:
            session.on(wire.DumpMemorySnapshot, lambda _command: self.dump(session.step))
            return
        session.decline(wire.DumpMemorySnapshot, reason)
        if self._has_history:
            session.notice(f"memory.record_history has no effect: {reason}", level="warning")

    def dump(self, step: int) -> str:
        """Write one; where it is and what to do with it, in words. Raises MemdashError, OSError."""
        self._folder.mkdir(exist_ok=True)
        for left_behind in self._folder.glob(".step-*.partial"):
            left_behind.unlink()
        free_bytes = shutil.disk_usage(self._folder).free
        if free_bytes < ROOM_BYTES:
            room = f"{format_bytes(ROOM_BYTES)} should be free, {format_bytes(free_bytes)} are"
            raise MemdashError(f"no room for a memory snapshot in {self._folder}: {room}")
        path, staged = self._folder / f"step-{step}.pickle", self._folder / f".step-{step}.partial"
        try:
            self._device.dump_snapshot(staged)
            os.replace(staged, path)
        finally:
            staged.unlink(missing_ok=True)
        self._remove_old(path)
        text = f"{path} ({format_bytes(path.stat().st_size)}): {WHERE_TO_OPEN}"
        return text if self._has_history else f"{text}; [memory] record_history = true would show who allocated what"

    def _remove_old(self, newest: Path) -> None:
        """Only files that are named like ours; one that cannot be removed does no harm."""
        ours = [path for path in self._folder.iterdir() if re.fullmatch(r"step-\d+\.pickle", path.name)]
        others = sorted((path for path in ours if path != newest), key=lambda path: path.stat().st_mtime_ns)
        for path in others[: max(0, len(ours) - KEEP)]:
            with contextlib.suppress(OSError):
                path.unlink()

"""When to say that the run's record cannot be written, and when that it can again (pure)."""

from __future__ import annotations

from typing import Protocol

from memdash import wire
from memdash.units import format_duration

QUIET_S = 10.0  # a full disk takes a row now and then: what fits into the last block of a file


class Record(Protocol):
    """What is counted of a record that is being written."""

    failed: int
    """Writes that failed."""
    lost: int
    """Records that were given up for it."""
    error: str
    """What the last write that failed has met."""


class RecordTrouble:
    """Says each once, however often single writes succeed and fail in between."""

    def __init__(self) -> None:
        self._failed = self._lost_before = 0
        self._began_s: float | None = None
        self._last_s = 0.0

    def look(self, record: Record, now_s: float) -> tuple[wire.Level, str] | None:
        """What to journal now, if anything."""
        if record.failed > self._failed:
            self._failed, self._last_s = record.failed, now_s
            if self._began_s is not None:
                return None
            self._began_s = now_s
            return "error", f"the run's record cannot be written: {record.error}"
        if self._began_s is None or now_s - self._last_s < QUIET_S:
            return None
        took_s, lost = self._last_s - self._began_s, record.lost - self._lost_before
        self._began_s, self._lost_before = None, record.lost
        return "good", f"the record is written again after {format_duration(took_s)}; records lost: {lost}"

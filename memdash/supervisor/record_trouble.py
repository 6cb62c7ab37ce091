"""When to say that the run's record cannot be written, and when that it can again (pure)."""

from __future__ import annotations

from memdash import wire
from memdash.units import format_duration

QUIET_S = 10.0  # a full disk takes a row now and then: what fits into the last block of a file


class RecordTrouble:
    """Says each once, however often single writes succeed and fail in between."""

    def __init__(self) -> None:
        self._lost = self._lost_before = 0
        self._began_s: float | None = None
        self._last_s = 0.0

    def look(self, lost: int, error: str, now_s: float) -> tuple[wire.Level, str] | None:
        """What to journal now, if anything; `lost` records so far, the last of them by `error`."""
        if lost > self._lost:
            if is_new := self._began_s is None:
                self._began_s, self._lost_before = now_s, self._lost
            self._lost, self._last_s = lost, now_s
            return ("error", f"the run's record cannot be written: {error}") if is_new else None
        if self._began_s is None or now_s - self._last_s < QUIET_S:
            return None
        took_s, self._began_s = self._last_s - self._began_s, None
        text = f"the record is written again after {format_duration(took_s)}; records lost: {lost - self._lost_before}"
        return "good", text

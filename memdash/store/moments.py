"""The whole state of a run whenever something other than a sample had changed it: one JSON line a moment, append-only.

Between two moments the state is the earlier one and the samples after it: so the state at any time can be told.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from pathlib import Path

import msgspec

from memdash import wire
from memdash.store.lines import LineWriter


class Moment(msgspec.Struct, frozen=True):
    """The state as it was from this time on."""

    time_s: float
    state: wire.RunState


_decoder = msgspec.json.Decoder(Moment)


class MomentWriter:
    """Writes moments."""

    def __init__(self, path: Path) -> None:
        self._lines = LineWriter(path)

    def append(self, moment: Moment) -> None:
        """Write one moment. Raises OSError, having written nothing, when the disk is full."""
        self._lines.append(msgspec.json.encode(moment) + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


class Moments:
    """Those that were recorded when this was made; only where they lie is kept in memory."""

    def __init__(self, path: Path) -> None:
        """A damaged line is left out; without a file there is no moment."""
        self._places: list[tuple[float, int, int]] = []
        self._file = open(path, "rb") if path.exists() else None
        start = 0
        for line in self._file or ():
            try:
                self._places.append((_decoder.decode(line).time_s, start, len(line)))
            except msgspec.MsgspecError:
                pass
            start += len(line)

    @property
    def times(self) -> list[float]:
        """When they were, oldest first."""
        return [time_s for time_s, _, _ in self._places]

    def at(self, time_s: float) -> Moment | None:
        """The last one up to this time; None before the first."""
        index = bisect_right(self._places, time_s, key=lambda place: place[0]) - 1
        if index < 0 or self._file is None:
            return None
        _, start, length = self._places[index]
        return _decoder.decode(os.pread(self._file.fileno(), length, start))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

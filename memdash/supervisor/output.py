"""What the training process prints: a file that it appends to, bounded and followed by the supervisor.

The process writes to a file and not to a pipe, so that it can never block on a full one nor die when its reader does.
"""

from __future__ import annotations

import codecs
import os
from pathlib import Path

MAX_LOG_BYTES = 32 << 20  # then the newer half is kept as output.log.1
MAX_READ_BYTES = 64 << 10  # per look: at 10 looks a second more than anyone can read
TAIL_BYTES = 64 << 10  # for a dashboard that has just attached


class OutputLog:
    """Follows one output file."""

    def __init__(self, path: Path, max_bytes: int = MAX_LOG_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._position = os.fstat(self._descriptor).st_size
        self.begins_at = 0
        """Bytes that were printed before the first one of the file as it is now."""
        self.marked_at = 0
        """Where the output of this attempt begins."""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def descriptor(self) -> int:
        """Opened for appending: the training process's stdout and stderr."""
        return self._descriptor

    @property
    def ends_at(self) -> int:
        """Bytes that were printed in all, as far as they have been read."""
        return self.begins_at + self._position

    def read_new(self) -> tuple[str, int]:
        """Text that came since the last call, and how many bytes before it were skipped because they were too many."""
        size = os.fstat(self._descriptor).st_size
        skipped = max(0, size - self._position - MAX_READ_BYTES)
        self._position += skipped
        data = os.pread(self._descriptor, MAX_READ_BYTES, self._position)
        self._position += len(data)
        if self._position > self._max_bytes:
            self._rotate()
        return self._decoder.decode(data), skipped

    def tail(self) -> str:
        """The last of what has been read so far."""
        start = max(0, self._position - TAIL_BYTES)
        text = os.pread(self._descriptor, self._position - start, start).decode(errors="replace")
        return text if start == 0 else text.partition("\n")[2]

    def mark(self, position: int | None = None) -> None:
        """What comes from here on, or from a position that was marked before, is another attempt's."""
        size = os.fstat(self._descriptor).st_size
        if position is None:
            position = size
        self.marked_at = position if position <= size else 0  # it was rotated meanwhile

    def since_mark(self) -> str:
        """The end of what came since the mark, read or not."""
        end = os.fstat(self._descriptor).st_size
        start = max(self.marked_at, end - TAIL_BYTES)
        return os.pread(self._descriptor, TAIL_BYTES, start).decode(errors="replace")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _rotate(self) -> None:
        """Keep the newer half beside, and start the file anew; appending writers go on at its new end."""
        keep = os.pread(self._descriptor, self._max_bytes // 2, self._position - self._max_bytes // 2)
        try:
            self._path.with_name(self._path.name + ".1").write_bytes(keep)
        except OSError:
            pass  # on a full disk the old half is worth less than the room it takes
        os.ftruncate(self._descriptor, 0)
        self.begins_at += self._position
        self._position = self.marked_at = 0

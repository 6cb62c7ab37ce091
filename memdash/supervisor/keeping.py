"""A run's history beside its record, so that the longest run opens at once. Called in the supervisor's one thread."""

from __future__ import annotations

import contextlib

from memdash.errors import StoreError
from memdash.store.histories import keep_history, kept_history
from memdash.store.run_directory import RunDirectory
from memdash.store.samples import CHUNK_ROWS, SampleReader
from memdash.supervisor.history import History

KEEP_ROWS = 4096  # of one source, that have to be read again at most: at two a second, half an hour


class Keeper:
    """The history of a run, read when this is made; kept one source at a time, so that no beat waits for all."""

    def __init__(self, directory: RunDirectory) -> None:
        """Reads what is kept, and the rows after it. Raises RecordCorrupt."""
        self._directory = directory
        self.history = History()
        self._kept: dict[str, int] = {}
        for record in sorted(directory.samples.glob("*.rec")):
            if not History.draws(record.stem):
                continue
            source, reader = record.stem, SampleReader(record)
            self._kept[source] = self._unpack(source, *kept_history(record, reader))
            for start in range(self._kept[source], len(reader), CHUNK_ROWS):
                self.history.load(source, reader.columns(start, start + CHUNK_ROWS))
            reader.close()

    def tick(self, every: int = KEEP_ROWS) -> bool:
        """Keep one source that has `every` more rows than when it was last kept; whether there was one."""
        for source, rows in self.history.rows.items():
            if rows - self._kept.get(source, 0) >= every:
                self._kept[source] = rows
                with contextlib.suppress(OSError, StoreError):  # a full disk: the record itself says so
                    keep_history(self._directory.samples / f"{source}.rec", self.history.pack(source))
                return True
        return False

    def finish(self) -> None:
        """Keep all that is new."""
        while self.tick(1):
            pass

    def _unpack(self, source: str, made: bytes, rows: int) -> int:
        """How many rows need not be read."""
        try:
            if rows:
                self.history.unpack(source, rows, made)
        except ValueError:
            return 0
        return rows

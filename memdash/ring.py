"""A rank's newest samples in memory that it shares with its supervisor: rows of float64 in a ring, one writer, one reader.

Writing a row is no system call and wakes nobody, so a step pays a few microseconds for it; the supervisor looks when it
beats. The memory belongs to both: a kill -9 of either loses no row that was written. Rows that nobody reads in time are
written over, and their numbers tell the reader how many.
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import struct
from typing import Any, NamedTuple, get_args

from memdash.errors import MalformedMessage
from memdash.wire import DeviceMemory, MemoryKind, MemorySample, StepReport

ROWS = 4096  # at 10 steps/s, seven minutes without a supervisor
_MAGIC = b"memdash-ring-1\n\0"
_CURSOR = struct.Struct("=Q")
_WRITTEN_AT, _READ_AT, _PLACES_AT, _ROWS_AT = 64, 128, 192, 32768  # the cursors in cache lines of their own
_PLACES = struct.Struct("=I")  # length of the JSON that follows
MAX_PLACES = 16
MAX_WORDS = 200  # characters of a name or a reason
_ROW = struct.Struct("=25d")
_SIZE = _ROWS_AT + ROWS * _ROW.size
_MEMORY = (
    "capacity_bytes",
    "total_bytes",
    "free_bytes",
    "allocated_bytes",
    "reserved_bytes",
    "active_bytes",
    "inactive_split_bytes",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "num_alloc_retries",
    "num_ooms",
)
_NONE = math.nan

Sample = StepReport | MemorySample


class _Place(NamedTuple):
    """What a row does not say in figures: a table beside the rows has it once."""

    device: str
    kind: MemoryKind
    reason: str
    joins_fragments: bool


class RingWriter:
    """The rank's side; called in its training thread."""

    def __init__(self) -> None:
        self.descriptor: int | None = None
        """What the supervisor can open; None where this system knows no such memory."""
        if hasattr(os, "memfd_create"):
            self.descriptor = os.memfd_create("memdash-samples", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self.descriptor, _SIZE)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self.memory = mmap.mmap(-1 if self.descriptor is None else self.descriptor, _SIZE)
        self.memory[:] = bytes(_SIZE)  # all pages now, and not one by one in steps to come
        self.memory[: len(_MAGIC)] = _MAGIC
        self._written = 0
        self._last: DeviceMemory | None = None
        self._figures: tuple[float, ...] = ()
        self._places: list[_Place] = []

    def step(
        self,
        time_s: float,
        step: int,
        epoch: int,
        examples_seen: int,
        micro_batch: int,
        grad_accum_steps: int,
        step_time_s: float,
        loss: float | None,
        learning_rate: float | None,
        grad_norm: float | None,
        num_items: int,
        longest: int,
        memory: DeviceMemory,
    ) -> None:
        """One optimizer step; with `step_time_s` NaN a reading between steps."""
        if memory is not self._last:
            self._figures = self._packed(memory)
            self._last = memory
        number = self._written + 1
        _ROW.pack_into(
            self.memory,
            _ROWS_AT + self._written % ROWS * _ROW.size,
            number,
            time_s,
            step,
            epoch,
            examples_seen,
            micro_batch,
            grad_accum_steps,
            step_time_s,
            _NONE if loss is None else loss,
            _NONE if learning_rate is None else learning_rate,
            _NONE if grad_norm is None else grad_norm,
            num_items,
            longest,
            *self._figures,
        )
        self._written = number
        _CURSOR.pack_into(self.memory, _WRITTEN_AT, number)

    def reading(self, time_s: float, step: int, memory: DeviceMemory) -> None:
        """Device memory between two steps."""
        self.step(time_s, step, 0, 0, 0, 0, _NONE, None, None, None, 0, 0, memory)

    def _packed(self, memory: DeviceMemory) -> tuple[float, ...]:
        figures = [getattr(memory, name) for name in _MEMORY]
        place = _Place(memory.device[:MAX_WORDS], memory.kind, memory.reason[:MAX_WORDS], memory.joins_fragments)
        at = self._places.index(place) if place in self._places else self._add(place)
        return (at, *(_NONE if figure is None else figure for figure in figures))

    def _add(self, place: _Place) -> int:
        """Words are written once; a process that finds ever new ones has its last place renamed."""
        del self._places[MAX_PLACES - 1 :]
        self._places.append(place)
        data = json.dumps(self._places).encode()
        self.memory[_PLACES_AT + _PLACES.size : _PLACES_AT + _PLACES.size + len(data)] = data
        _PLACES.pack_into(self.memory, _PLACES_AT, len(data))
        return len(self._places) - 1


class RingReader:
    """The supervisor's side, or the rank's own where the supervisor cannot look into its memory."""

    def __init__(self, memory: mmap.mmap, rank: int) -> None:
        """Raises MalformedMessage when that is no ring."""
        self._rank = rank
        if len(memory) != _SIZE or memory[: len(_MAGIC)] != _MAGIC:
            raise MalformedMessage("not a ring of ours")
        self._memory = memory

    @classmethod
    def of(cls, pid: int, descriptor: int, rank: int) -> RingReader:
        """Look into the memory of another process of this user. Raises OSError, MalformedMessage."""
        opened = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
        try:
            # Memory that its owner can still shrink would end its reader by SIGBUS.
            if os.fstat(opened).st_size != _SIZE or not fcntl.fcntl(opened, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
                raise MalformedMessage("not a ring of ours")
            return cls(mmap.mmap(opened, _SIZE), rank)
        finally:
            os.close(opened)

    @property
    def read_to(self) -> int:
        """Number of the last row that a reader has done with."""
        return self._cursor(_READ_AT)

    def take(self) -> list[Sample]:
        """What came since `done`, oldest first; `seq` is the number of its row. Raises MalformedMessage."""
        written, read = self._cursor(_WRITTEN_AT), self._cursor(_READ_AT)
        if written == read:
            return []
        if read > written:
            raise MalformedMessage(f"a ring of which {read} rows were read and {written} written")
        first = max(read, written - ROWS)
        rows = [
            _ROW.unpack_from(self._memory, _ROWS_AT + number % ROWS * _ROW.size) for number in range(first, written)
        ]
        overwritten = self._cursor(_WRITTEN_AT) + 1 - ROWS  # the row that is being written now included
        words = self._words()
        try:
            return [_sample(self._rank, row, words) for row in rows if row[0] > overwritten]
        except (ValueError, OverflowError, IndexError) as error:
            raise MalformedMessage(f"a ring with rows that cannot be: {error}") from None

    def done(self, number: int) -> None:
        """Rows up to this one are not needed again, by no supervisor."""
        _CURSOR.pack_into(self._memory, _READ_AT, number)

    def close(self) -> None:
        """Look no more."""
        self._memory.close()

    def _cursor(self, at: int) -> int:
        return int(_CURSOR.unpack_from(self._memory, at)[0])

    def _words(self) -> list[_Place]:
        (size,) = _PLACES.unpack_from(self._memory, _PLACES_AT)
        start = _PLACES_AT + _PLACES.size
        try:
            places = [_Place(*place) for place in json.loads(self._memory[start : min(start + size, _ROWS_AT)])]
        except (TypeError, ValueError) as error:
            raise MalformedMessage(f"a ring whose devices cannot be read: {error}") from None
        if any(place.kind not in get_args(MemoryKind) for place in places):
            raise MalformedMessage("a ring of a device whose figures are of no kind that we know")
        return places


def _sample(rank: int, row: tuple[float, ...], words: list[_Place]) -> Sample:
    seq, time_s, step, epoch, examples_seen, micro_batch, grad_accum_steps, step_time_s = row[:8]
    if not math.isfinite(time_s):
        raise ValueError("a row of no time")
    memory = _device_memory(row[13:25], words)
    if step_time_s != step_time_s:
        return MemorySample(rank=rank, seq=int(seq), time_s=time_s, step=int(step), memory=memory)
    loss, learning_rate, grad_norm = (figure if math.isfinite(figure) else None for figure in row[8:11])
    return StepReport(
        rank=rank,
        seq=int(seq),
        time_s=time_s,
        step=int(step),
        epoch=int(epoch),
        examples_seen=int(examples_seen),
        micro_batch=int(micro_batch),
        grad_accum_steps=int(grad_accum_steps),
        step_time_s=step_time_s,
        loss=loss,
        learning_rate=learning_rate,
        grad_norm=grad_norm,
        num_items=int(row[11]),
        longest=int(row[12]),
        memory=memory,
    )


def _device_memory(figures: tuple[float, ...], words: list[_Place]) -> DeviceMemory:
    place = words[int(figures[0])]
    sizes: dict[str, Any] = {
        name: None if figure != figure else int(figure) for name, figure in zip(_MEMORY, figures[1:], strict=True)
    }
    return DeviceMemory(**place._asdict(), **sizes)

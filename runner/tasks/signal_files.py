"""Signals in a .npy file of shape (examples, channels, timesteps) with a text for each in a file beside it.

As a memory map an example is read when it is wanted, and its pages are let go of at once: the kernel may keep them
while there is room, but they are neither resident in the process nor, in a cgroup, part of its working set.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from memdash.errors import UsageError
from memdash.units import format_bytes
from runner.tasks.sources import json_lines

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[np.float32 | np.float16]
DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Target:
    """What one signal is to become."""

    text: str
    timesteps: int
    """How much of the signal is there; the rest is padding."""


class SignalFile:
    """Reads one example at a time. A forked process may read through the same object."""

    def __init__(self, path: Path, *, memory_map: bool, budget_bytes: int = 0, only_looks: bool = False) -> None:
        """Raises UsageError for what is not such a file, or would not fit `budget_bytes` of host memory (0 = any).

        One that `only_looks` maps what is to be loaded.
        """
        self.path = path
        mapped = _open(path)
        self.shape: tuple[int, int, int] = mapped.shape
        self._map: mmap.mmap | None = None
        self.loaded_bytes = 0 if memory_map else mapped.nbytes
        """What of it is in memory for the whole run."""
        if budget_bytes and self.loaded_bytes > budget_bytes:
            raise UsageError(
                f"data.memory_map = false: {path} holds {format_bytes(mapped.nbytes)}, more than "
                f"memory.host_budget = {format_bytes(budget_bytes)}",
                hint="memory_map = true reads each example when it is wanted",
            )
        if memory_map or only_looks:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            # Pages that are read in order are not counted as used again and again, as those of a working set are.
            self._map.madvise(mmap.MADV_SEQUENTIAL)
            self._offset = mapped.offset
            self._array: Array = np.ndarray(mapped.shape, mapped.dtype, self._map, self._offset)
            return
        self._array = np.load(path, allow_pickle=False)
        for index in range(self.shape[0]):
            self._check(index, self._array[index])

    def read(self, index: int, timesteps: int) -> Floats:
        """A copy, (channels, timesteps). Raises UsageError where it holds what is no number."""
        first, last = self._pages(index)
        if self._map is not None:
            self._map.madvise(mmap.MADV_WILLNEED, first, last - first)
        signal = self._array[index, :, :timesteps].astype(np.float32)
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)
            self._check(index, signal)
        return signal

    def _pages(self, index: int) -> tuple[int, int]:
        """The bytes of the file that hold one example, from the beginning of a page."""
        if self._map is None:
            return 0, 0
        size = self._array[0].nbytes
        start = self._offset + index * size
        return start - start % mmap.PAGESIZE, start + size

    def _check(self, index: int, signal: Array) -> None:
        good = np.isfinite(signal)
        if not good.all():
            channel, timestep = np.argwhere(~good)[0]
            raise UsageError(
                f"{self.path}: example {index} holds {signal[channel, timestep]} at channel {channel}, timestep {timestep}"
            )


def _open(path: Path) -> np.memmap[tuple[int, int, int], np.dtype[np.float32]]:
    """Its header, checked. Raises UsageError."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path}: cannot be read as a .npy file: {str(error).partition('(')[0].strip()}") from None
    if not isinstance(mapped, np.memmap):
        raise UsageError(f"{path}: not a single array", hint="save one with numpy.save")
    if mapped.dtype.name not in DTYPES or not mapped.dtype.isnative:
        raise UsageError(f"{path}: holds {mapped.dtype}", hint=f"save it as {' or '.join(DTYPES)}")
    if mapped.ndim != 3 or 0 in mapped.shape:
        raise UsageError(f"{path}: has the shape {mapped.shape}, not (examples, channels, timesteps)")
    if not mapped.flags.c_contiguous:
        raise UsageError(f"{path}: is in Fortran order", hint="save numpy.ascontiguousarray(signals)")
    return mapped


def read_targets(path: Path, shape: tuple[int, int, int], text_key: str) -> list[Target]:
    """One text for each signal, of a .txt or .jsonl file. Raises UsageError with file and line."""
    try:
        lines = _json_targets(path, shape[2], text_key) if path.suffix in (".jsonl", ".ndjson") else _lines(path)
        targets = [_target(path, number, text, timesteps or shape[2]) for number, text, timesteps in lines]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"data.targets = {str(path)!r}: cannot be read: {error}") from None
    if len(targets) != shape[0]:
        raise UsageError(
            f"{path}: {len(targets)} texts for {shape[0]} signals", hint="one text a signal, in their order"
        )
    return targets


def _lines(path: Path) -> Iterator[tuple[int, str, int]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        yield number, line, 0


def _json_targets(path: Path, most: int, text_key: str) -> Iterator[tuple[int, str, int]]:
    for number, record in json_lines(path):
        if not isinstance(record.get(text_key), str):
            there = ", ".join(record)
            raise UsageError(f"{path}:{number}: no text under {text_key!r} (data.text_column); there are: {there}")
        timesteps = record.get("timesteps", most)
        if type(timesteps) is not int or not 1 <= timesteps <= most:
            raise UsageError(f"{path}:{number}: timesteps = {timesteps!r}: must be a number from 1 to {most}")
        yield number, record[text_key], timesteps


def _target(path: Path, number: int, text: str, timesteps: int) -> Target:
    if not text.split():
        raise UsageError(f"{path}:{number}: the text is empty", hint="each signal needs at least one word")
    return Target(text, timesteps)

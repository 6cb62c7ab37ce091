"""What torch's caching allocator reserves of a GPU for a traced step, fragments included (pure).

By the same rules as runner/simulated.cpp, which plays it for real tensors. It starts empty and is never asked to give
anything back: what is reserved is what a step takes where nothing has to make way.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

import numpy as np

from runner.planning.trace import Phase, Script, Sizes

MIB = 1 << 20
Block = tuple[int, int]
"""(address, bytes)."""


class FreeBlocks:
    """Free blocks by size, merged with their neighbours."""

    def __init__(self) -> None:
        self._by_size: list[tuple[int, int]] = []
        self._sizes: dict[int, int] = {}
        self._starts: dict[int, int] = {}
        """Of the block that ends there."""

    def take(self, size: int) -> Block | None:
        """The smallest that is large enough, at the lowest address; it is free no more."""
        place = bisect_left(self._by_size, (size, 0))
        if place == len(self._by_size):
            return None
        found, address = self._by_size[place]
        self.remove(address)
        return address, found

    def add(self, address: int, size: int) -> Block:
        """Free it; the block that it has become a part of."""
        before = self._starts.get(address)
        if before is not None:
            size += self.remove(before)
            address = before
        if address + size in self._sizes:
            size += self.remove(address + size)
        insort(self._by_size, (size, address))
        self._sizes[address] = size
        self._starts[address + size] = address
        return address, size

    def remove(self, address: int) -> int:
        """Its bytes."""
        size = self._sizes.pop(address)
        del self._starts[address + size]
        del self._by_size[bisect_left(self._by_size, (size, address))]
        return size


class CudaCache:
    """Up to 1 MiB from segments of 2 MiB, below 10 MiB from such of 20 MiB, more from a segment of its own."""

    def __init__(self) -> None:
        self.reserved = 0
        """Bytes of all segments."""
        self._free = {True: FreeBlocks(), False: FreeBlocks()}
        self._small: set[int] = set()
        self._next = 0

    def take(self, asked: int) -> Block:
        """At least so many bytes, in multiples of 512."""
        size = -(-asked // 512) * 512
        is_small = size <= MIB
        free = self._free[is_small]
        address, found = free.take(size) or self._segment(size, is_small)
        rest = found - size
        if rest >= 512 if is_small else rest > MIB:
            free.add(address + size, rest)
            found = size
        if is_small:
            self._small.add(address)
        return address, found

    def give(self, block: Block) -> None:
        """Free again, and merged with what is free beside it in its segment."""
        is_small = block[0] in self._small
        self._small.discard(block[0])
        self._free[is_small].add(*block)

    def _segment(self, size: int, is_small: bool) -> Block:
        bytes_ = 2 * MIB if is_small else 20 * MIB if size < 10 * MIB else -(-size // (2 * MIB)) * 2 * MIB
        address = self._next
        self._next += bytes_ + 512  # never beside another segment
        self.reserved += bytes_
        return address, bytes_


def reserved(script: Script, phase: Phase, sizes: Sizes) -> int:
    """The most that torch's cache holds in a phase.

    A later slice finds the holes that the first one has left; the commit, from which nothing is kept over, finds none.
    """
    start, stop = script.span(phase)
    events: Iterable[int] = script.events[:stop]
    if phase == "commit":
        events = [*_living(script.events[:start]), *script.events[start:stop]]
    cache, taken = CudaCache(), {}
    bytes_ = np.maximum(sizes, 1).tolist()
    for event in events:
        if event >= 0:
            taken[event] = cache.take(bytes_[event])
        else:
            cache.give(taken.pop(~event))
    return cache.reserved


def _living(events: Iterable[int]) -> list[int]:
    living: dict[int, None] = {}
    for event in events:
        if event >= 0:
            living[event] = None
        else:
            del living[~event]
    return list(living)

"""What training processes do to host memory, in parts that a trace combines: every byte is really allocated and touched.

A part is made once and called once a step.
"""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty
from typing import Any

from benchmarks.corpus.loop import Loop

MIB = 1 << 20
Part = Callable[[Loop], None]


def touched(mib: float) -> bytearray:
    """So many MiB of memory that has been written to."""
    return bytearray(b"\x01") * max(1, int(mib * MIB))


def base(mib: float) -> Part:
    """What is there from the beginning: a model, its optimizer's state, libraries."""
    held = touched(mib)

    def part(loop: Loop) -> None:
        held[loop.step % len(held)] = 1

    return part


def warm_up(mib: float, tau_s: float) -> Part:
    """Grows quickly, then slower and slower: allocator pools, compiled kernels, caches of shapes."""
    held: list[bytearray] = []
    there = 0.0

    def part(loop: Loop) -> None:
        nonlocal there
        wanted = mib * (1 - math.exp(-loop.elapsed_s / tau_s))
        if wanted - there > 0.05:
            held.append(touched(wanted - there))
            there = wanted

    return part


def leak(mib_per_s: float, begin_s: float = 0.0, heavy: bool = False) -> Part:
    """Something is kept of every step; `heavy`: of few steps much, of most little."""
    held: list[bytearray] = []
    due = 0.0
    last_s = begin_s

    def part(loop: Loop) -> None:
        nonlocal due, last_s
        if loop.elapsed_s < begin_s:
            return
        due += (loop.elapsed_s - last_s) * mib_per_s * (loop.random.paretovariate(1.5) / 3 if heavy else 1)
        last_s = loop.elapsed_s
        if due > 0.02:
            held.append(touched(due))
            due = 0.0

    return part


def accelerating_leak(mib_per_s2: float) -> Part:
    """What is kept of a step grows with the steps, as a history that is copied with every step does."""
    held: list[bytearray] = []
    there = 0.0

    def part(loop: Loop) -> None:
        nonlocal there
        wanted = mib_per_s2 * loop.elapsed_s**2 / 2
        if wanted - there > 0.02:
            held.append(touched(wanted - there))
            there = wanted

    return part


def stairs(mib: float, every_s: float, count: int = 1 << 30, first_s: float | None = None) -> Part:
    """Something is kept of every epoch, or of the first few."""
    held: list[bytearray] = []
    next_s = every_s if first_s is None else first_s

    def part(loop: Loop) -> None:
        nonlocal next_s
        if loop.elapsed_s >= next_s and len(held) < count:
            held.append(touched(mib * loop.random.uniform(0.9, 1.1)))
            next_s += every_s

    return part


def cache(mib: float, entries: int, per_step: int, shuffled: bool = False) -> Part:
    """Decoded examples, kept when first seen; an epoch goes through all entries, in order or shuffled with replacement."""
    held: dict[int, bytearray] = {}
    place = 0

    def part(loop: Loop) -> None:
        nonlocal place
        for _ in range(per_step):
            key = loop.random.randrange(entries) if shuffled else place % entries
            place += 1
            if key not in held:
                held[key] = touched(mib / entries * loop.random.uniform(0.7, 1.3))

    return part


def endless_cache(mib_per_s: float, hits: float = 0.5) -> Part:
    """A cache whose keys never come again often enough, and that forgets nothing."""
    held: dict[tuple[int, int], bytearray] = {}
    last_s = 0.0

    def part(loop: Loop) -> None:
        nonlocal last_s
        if loop.random.random() >= hits:
            held[loop.step, len(held)] = touched((loop.elapsed_s - last_s) * mib_per_s)
            last_s = loop.elapsed_s

    return part


class _Cycle:
    """Freed by the garbage collector only."""

    def __init__(self, mib: float) -> None:
        self.data = touched(mib)
        self.itself = self


def cycles(mib_per_s: float, every_s: float) -> Part:
    """Reference cycles that pile up until the collector runs: a saw."""
    gc.disable()
    last_s = collected_s = 0.0

    def part(loop: Loop) -> None:
        nonlocal last_s, collected_s
        _Cycle((loop.elapsed_s - last_s) * mib_per_s)
        last_s = loop.elapsed_s
        if loop.elapsed_s - collected_s > every_s:
            gc.collect()
            collected_s = loop.elapsed_s

    return part


def spikes(mib: float, every_s: float, for_s: float = 0.5, pieces: int = 4) -> Part:
    """An evaluation or a save that needs much for a while and gives it back."""
    next_s = every_s

    def part(loop: Loop) -> None:
        nonlocal next_s
        if loop.elapsed_s < next_s:
            return
        held = []
        for _ in range(pieces):
            held.append(touched(mib / pieces))
            time.sleep(for_s / pieces)
        next_s += every_s

    return part


def walk(mib: float, pieces: int = 12) -> Part:
    """Comes and goes at random, within bounds."""
    held: list[bytearray] = []

    def part(loop: Loop) -> None:
        for _ in range(2):
            if held and loop.random.random() < len(held) / pieces:
                held.pop(loop.random.randrange(len(held)))
            else:
                held.append(touched(mib / pieces * loop.random.uniform(0.5, 1.5)))

    return part


def sorted_lengths(mib: float, epoch_s: float) -> Part:
    """Epochs sorted by length: each step's batch is a little larger than the one before, until the next epoch."""

    def part(loop: Loop) -> None:
        batch = touched(mib * (0.1 + 0.9 * (loop.elapsed_s % epoch_s) / epoch_s))
        time.sleep(0.05)
        del batch

    return part


def held_lengths(mib: float, epoch_s: float) -> Part:
    """The same with a buffer that is kept until it is too small, and let go when the epoch ends."""
    held = touched(0.1)
    epoch = 0

    def part(loop: Loop) -> None:
        nonlocal held, epoch
        wanted = mib * (0.1 + 0.9 * (loop.elapsed_s % epoch_s) / epoch_s)
        if int(loop.elapsed_s / epoch_s) != epoch:
            epoch = int(loop.elapsed_s / epoch_s)
            held = touched(wanted)
        elif wanted > len(held) / MIB:
            held += touched(wanted - len(held) / MIB)

    return part


def page_cache(mib_per_s: float, keep: int = 3) -> Part:
    """Files written and read, as by logs and shards: page cache that the kernel gives back."""
    folder = tempfile.mkdtemp()
    names: list[str] = []
    last_s = 0.0

    def part(loop: Loop) -> None:
        nonlocal last_s
        if loop.elapsed_s - last_s < 1:
            return
        names.append(os.path.join(folder, str(loop.step)))
        with open(names[-1], "wb") as file:
            file.write(touched(mib_per_s * (loop.elapsed_s - last_s)))
        last_s = loop.elapsed_s
        if len(names) > keep:
            os.unlink(names.pop(0))

    return part


def metrics(floats: int = 200) -> Part:
    """The history of losses that any script keeps: it grows for ever, and matters to nobody."""
    held: list[list[float]] = []

    def part(loop: Loop) -> None:
        held.append([loop.random.random() for _ in range(floats)])

    return part


def prefetch(workers: int, mib: float, depth: int = 4, leak_mib_per_s: float = 0.0) -> Part:
    """Loader processes that make batches ahead; a leak is theirs."""
    queue: Any = multiprocessing.get_context("fork").Queue(maxsize=depth)
    for number in range(workers):
        multiprocessing.get_context("fork").Process(
            target=_produce, args=(queue, mib, leak_mib_per_s / workers, number), daemon=True
        ).start()

    def part(loop: Loop) -> None:
        try:
            queue.get(timeout=0.2)
        except Empty:
            return

    return part


def _produce(queue: Any, mib: float, leak_mib_per_s: float, number: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    held, last_s = [], time.monotonic()
    batch_mib = (0.5, 1.0, 0.75, 1.25)
    for count in range(1 << 30):
        queue.put(touched(mib * batch_mib[(count + number) % 4]))
        now_s = time.monotonic()
        held.append(touched((now_s - last_s) * leak_mib_per_s) if leak_mib_per_s else b"")
        last_s = now_s


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


PARTS: dict[str, Callable[..., Part]] = {
    part.__name__: part
    for part in (
        base, warm_up, leak, accelerating_leak, stairs, cache, endless_cache, cycles, spikes, walk, sorted_lengths,
        held_lengths, page_cache, metrics, prefetch,
    )
}  # fmt: skip


def train(loop: Loop, parts: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Train to the end, or until memory is at one."""
    made = [PARTS[name](**options) for name, options in parts]
    loop.start()
    try:
        for _ in loop:
            for part in made:
                part(loop)
    except MemoryError:
        made.clear()
        loop.out_of_memory("MemoryError")

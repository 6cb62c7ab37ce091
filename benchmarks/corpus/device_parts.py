"""A small model that is really trained on the simulated device, and what else can happen to that device's memory.

A part is made once and called after every step.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from benchmarks.corpus.loop import Loop
from benchmarks.corpus.models import MODELS, VOCABULARY
from memdash.wire import DeviceMemory
from runner.simulated import SimulatedDevice

MIB = 1 << 20
OWN = ("capacity_bytes", "allocated_bytes", "reserved_bytes", "active_bytes")


class Training:
    """Model, optimizer, device, and what the last step left."""

    def __init__(self, loop: Loop, capacity_mib: float, model: str) -> None:
        torch.set_num_threads(1)
        self.loop = loop
        self.device = SimulatedDevice(int(capacity_mib * MIB))
        if note := self.device.start():
            raise SystemExit(note)
        self._kind = MODELS[model]
        with self.device.host():
            self.model = self._kind.build()
        self.device.place(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.others_bytes = 0
        """What another process has of the device."""
        self._peaks = [0, 0]
        loop.read_memory = self.read_memory
        loop.write_full = self.write_full

    def batch(self, size: int, length: int) -> Tensor:
        """Random tokens on the device."""
        with self.device.host():
            tokens = torch.randint(0, VOCABULARY, self._kind.shape(self.loop.random, size, length))
        return self.device.put({"tokens": tokens})["tokens"]

    def step(self, lengths: Sequence[int]) -> None:
        """One optimizer step of as many micro-batches."""
        for length in lengths:
            tokens = self.batch(self.loop.micro_batch, length)
            logits = self.model(tokens)
            nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, : logits.shape[1]].flatten()).backward()
            del tokens, logits
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def look(self) -> DeviceMemory:
        """The whole device's figures, in the middle of a step; its peaks go on."""
        memory = self.device.read_memory()
        peaks = (memory.peak_allocated_bytes or 0, memory.peak_reserved_bytes or 0)
        self._peaks = [max(pair) for pair in zip(self._peaks, peaks, strict=True)]
        return memory

    def read_memory(self) -> DeviceMemory:
        """At the end of a step, as this process sees it: what another one has is neither its own nor its capacity."""
        memory, others = self.look(), self.others_bytes
        peaks, self._peaks = self._peaks, [0, 0]
        own = {name: (getattr(memory, name) or 0) - others for name in OWN}
        own |= {"peak_allocated_bytes": peaks[0] - others, "peak_reserved_bytes": peaks[1] - others}
        return msgspec.structs.replace(memory, **own)

    def write_full(self, path: str) -> None:
        """Weights and optimizer state."""
        with self.device.host():
            torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, path)


Part = Callable[[Training], None]


def floats(mib: float) -> Tensor:
    """A tensor of so many MiB on the device, written to."""
    return torch.zeros(max(1, int(mib * MIB / 4)))


def graphs(examples: int, length: int, every: int = 1, most: int = 1 << 30, begin: int = 0) -> Part:
    """An auxiliary loss is appended to a list with its graph, and the graph's tensors with it; or for some time only."""
    kept: list[Tensor] = []

    def part(training: Training) -> None:
        if training.loop.step >= begin and training.loop.step % every == 0 and len(kept) < most:
            kept.append(training.model(training.batch(examples, length)).mean())

    return part


def hidden(mib_per_step: float) -> Part:
    """Features of every step are kept, now many, now few."""
    kept: list[Tensor] = []

    def part(training: Training) -> None:
        kept.append(floats(mib_per_step * training.loop.random.expovariate(1.0)))

    return part


def epochs(mib: float, every: int, most: int = 1 << 30) -> Part:
    """The validation features of every epoch are kept, or of the first few."""
    kept: list[Tensor] = []

    def part(training: Training) -> None:
        if training.loop.step % every == every - 1 and len(kept) < most:
            kept.append(floats(mib))

    return part


def cache(mib: float, entries: int, per_step: int, bound: bool = True) -> Part:
    """Features of examples, kept when first seen; without bound no example comes twice."""
    kept: dict[int, Tensor] = {}
    place = 0

    def part(training: Training) -> None:
        nonlocal place
        for _ in range(per_step):
            key = place % entries if bound else place
            place += 1
            if key not in kept:
                kept[key] = floats(mib / entries * training.loop.random.uniform(0.5, 1.5))

    return part


class _Cycle:
    """Freed by the garbage collector only."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.itself = self


def cycles(mib: float, every: int) -> Part:
    """Reference cycles that hold tensors until the collector runs: a saw."""
    gc.disable()

    def part(training: Training) -> None:
        _Cycle(floats(mib))
        if training.loop.step % every == 0:
            gc.collect()

    return part


def evaluation(examples: int, length: int, every: int) -> Part:
    """A larger batch without gradients, now and then."""

    def part(training: Training) -> None:
        if training.loop.step % every == every - 1:
            with torch.no_grad():
                training.model(training.batch(examples, length))

    return part


def copies(every: int, keep: bool = False, at: int = -1) -> Part:
    """A second set of weights: for a moment while it is saved, or for good, as a moving average."""
    kept: list[list[Tensor]] = []

    def part(training: Training) -> None:
        if training.loop.step == at or (every and training.loop.step % every == every - 1):
            state = [parameter.detach().clone() for _ in range(8) for parameter in training.model.parameters()]
            if keep:
                kept.append(state)

    return part


def neighbour(mib_per_step: float, begin: int = 0, until: int = 1 << 30, walk_mib: float = 0.0) -> Part:
    """Another process on the device, that grows from one step to another; or comes and goes."""
    held: list[Tensor] = []

    def part(training: Training) -> None:
        random = training.loop.random
        if mib_per_step and begin <= training.loop.step < until:
            held.append(floats(mib_per_step * random.uniform(0.5, 1.5)))
        if walk_mib and held and random.random() < 0.1 * len(held):
            held.pop(random.randrange(len(held)))
        elif walk_mib and random.random() < 0.4:
            held.append(floats(walk_mib / 8 * random.uniform(0.5, 1.5)))
        training.others_bytes = sum(tensor.nbytes for tensor in held)

    return part


def splinters(mib: float, growth: float, every: int, most: int = 1 << 30, keep_mib: float = 1.1) -> Part:
    """Buffers, each a little larger than the last, with something kept between them: no hole fits the next one."""
    kept: list[Tensor] = []
    size = mib
    retries = 0

    def part(training: Training) -> None:
        nonlocal size, retries
        if training.loop.step % every == 0 and len(kept) < most:
            size += growth
            buffer = floats(size)
            kept.append(floats(keep_mib))
            del buffer
        memory = training.look()
        full = (memory.reserved_bytes or 0) >= (memory.capacity_bytes or 0)
        if full and memory.num_alloc_retries > retries:
            raise torch.OutOfMemoryError("no segment fits: a caching allocator cannot go on")
        retries = memory.num_alloc_retries

    return part


PARTS: dict[str, Callable[..., Part]] = {
    part.__name__: part
    for part in (graphs, hidden, epochs, cache, cycles, evaluation, copies, neighbour, splinters)
}  # fmt: skip


def lengths_of(loop: Loop, kind: str, low: int, high: int, outlier: tuple[int, int] | None, epoch: int) -> list[int]:
    """The longest length of each step: `fixed`, `random`, `sorted` within each epoch; one step's may be an outlier."""
    count = loop.total_steps
    drawn = [max(loop.random.randint(low, high) for _ in range(2)) for _ in range(count)]
    if kind == "fixed":
        drawn = [high] * count
    elif kind == "sorted":
        drawn = [length for at in range(0, count, epoch) for length in sorted(drawn[at : at + epoch])]
    if outlier is not None:
        drawn[outlier[0] - 1] = outlier[1]
    return drawn


def train(
    loop: Loop,
    parts: Sequence[tuple[str, dict[str, Any]]],
    *,
    capacity_mib: float,
    model: str = "transformer",
    lengths: str = "fixed",
    low: int = 16,
    high: int = 64,
    outlier: tuple[int, int] | None = None,
    epoch: int = 100,
    told: bool = True,
    slices: int = 1,
    padding: str = "group",
    unrelated: int = 0,
) -> None:
    """Train to the end, or until the device's memory is at one; `told`: the lengths to come are known beforehand.

    A step has so many micro-batches, `slices`, each padded to the longest example of the step, or, with `padding`
    `batch`, to its own. `unrelated` is the largest of lengths that are told, and have nothing to do with what is trained.
    """
    training = Training(loop, capacity_mib, model)
    made = [PARTS[name](**options) for name, options in parts]
    longest = lengths_of(loop, lengths, low, high, outlier, epoch)
    announced = [round(unrelated * loop.random.random() ** 3) + 1 for _ in longest] if unrelated else longest
    loop.start()
    if told:
        loop.coming(announced)
    try:
        for step in loop:
            loop.longest = announced[step - 1] if told else 0
            length = longest[step - 1]
            rest = [length if padding == "group" else loop.random.randint(low, length) for _ in range(slices - 1)]
            training.step([*rest, length])
            for part in made:
                part(training)
    except torch.OutOfMemoryError as error:
        loop.out_of_memory(str(error).splitlines()[0])

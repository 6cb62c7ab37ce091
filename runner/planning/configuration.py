"""One way to train: what each micro-batch of it needs over the whole run, whether that fits, and the largest that does."""

from __future__ import annotations

from functools import cached_property

from memdash.batching import divisors
from memdash.config import RunConfig
from runner.groups import Groups
from runner.optimizer import Plan
from runner.planning.estimate import Estimator
from runner.planning.outlook import Outlook, look
from runner.planning.room import Room
from runner.planning.statistics import Slices, epochs
from runner.planning.trace import Peak, Phase
from runner.slicing import OF_ITEMS, Slicing

MAX_ROWS = 10  # micro-batches that are looked at
TIGHT = 0.9  # of the capacity: what lives within one operation is not estimated


class Configuration:
    """A config whose step was traced, with the slices that its sampler will make. All bytes are with the framework's."""

    def __init__(self, config: RunConfig, slicing: Slicing, room: Room, estimator: Estimator) -> None:
        self.config = config
        self.slicing = slicing
        self.room = room
        self.estimator = estimator
        self.group = config.train.global_batch
        self._outlooks: dict[int, Outlook] = {}

    @cached_property
    def steps(self) -> Plan:
        """How many it makes."""
        return Plan(len(self.slicing.lengths), self.group, self.config.train)

    @cached_property
    def micro_batches(self) -> list[int]:
        """Those that cut the group evenly, and the config's own; only that where an update in the backward allows no cut."""
        if self.config.train.optimizer_in_backward:
            return [self.config.micro_batch]
        sizes = divisors(self.group)
        if len(sizes) > MAX_ROWS:
            sizes = sizes[: MAX_ROWS // 2] + sizes[-MAX_ROWS // 2 :]
        return sorted({*sizes, self.config.micro_batch})

    def first_epoch(self, micro_batch: int) -> Slices:
        """Every slice of it; all examples are in it once."""
        return next(epochs(self.slicing, self._groups, self.group, micro_batch, self.steps.steps_per_epoch))

    def outlook(self, micro_batch: int) -> Outlook:
        """Of the whole run."""
        if micro_batch not in self._outlooks:
            run = epochs(self.slicing, self._groups, self.group, micro_batch, self.steps.total_steps)
            self._outlooks[micro_batch] = look(run, self.need, micro_batch, self.room.for_tensors)
        return self._outlooks[micro_batch]

    def need(self, phase: Phase, batch: int, length: int) -> int:
        """Bytes for the tensors of one phase, without the framework's."""
        return self.estimator.held(phase, batch, length)

    def worst_bytes(self, micro_batch: int) -> int:
        """Of the slice that needs most."""
        return self.outlook(micro_batch).worst_bytes + self.room.framework_bytes

    def verdict(self, micro_batch: int) -> str:
        """`fits`, `tight`, `oom`, or `unknown` where nobody knows what there is."""
        if self.room.for_tensors is None or self.room.capacity_bytes is None:
            return "unknown"
        if not self.outlook(micro_batch).fits:
            return "oom"
        return "tight" if self.worst_bytes(micro_batch) > TIGHT * self.room.capacity_bytes else "fits"

    @cached_property
    def largest(self) -> int | None:
        """The largest micro-batch that fits; None where none does, or nobody knows."""
        fitting = [size for size in self.micro_batches if self.verdict(size) in ("fits", "tight")]
        return max(fitting, default=None)

    def slices_of(self, micro_batch: int) -> int:
        """In a step."""
        return -(-self.group // micro_batch)

    def at(self, micro_batch: int, length: int) -> tuple[Peak, int]:
        """The peak of a step whose longest example is so long, and the bytes that are held for it.

        Such an example is a slice of its own where the config says so.
        """
        alone = 0 < self.slicing.alone_above < length
        size, count = (1, 2) if alone else (micro_batch, self.slices_of(micro_batch))
        if self.slicing.padding in OF_ITEMS:
            size, length = self._items_beside(micro_batch, length), 1
            count = 2 if self.slicing.padding == "sequential" else count
        held = self.estimator.held_step(size, length, count) + self.room.framework_bytes
        return self.estimator.step(size, length, count), held

    def first_steps(self, micro_batch: int, steps: int) -> tuple[int, int]:
        """The peak of the first steps, without the framework's bytes, and the cells of the last one."""
        epoch = self.first_epoch(micro_batch)
        last = min(steps, int(epoch.step[-1]))
        early = epoch.step <= last
        sizes = zip(epoch.is_first[early], epoch.count[early].tolist(), epoch.longest[early].tolist(), strict=True)
        peaks = [self._tensors("first" if is_first else "later", count, longest) for is_first, count, longest in sizes]
        commit = self._tensors("commit", micro_batch, int(epoch.longest[0]))
        is_last = epoch.step == last
        return max(commit, *peaks), int((epoch.longest * epoch.count)[is_last].sum())

    def cells(self, micro_batch: int) -> int:
        """Computed in the whole run, as its first epoch goes."""
        epoch = self.first_epoch(micro_batch)
        return round(float((epoch.longest * epoch.count).sum()) * self.steps.total_steps / self.steps.steps_per_epoch)

    def _tensors(self, phase: Phase, batch: int, length: int) -> int:
        """What a probe counts: on a CUDA device what is reserved."""
        is_cuda = self.room.holder == "cuda"
        return self.need(phase, batch, length) if is_cuda else self.estimator.phase(phase, batch, length).bytes

    def _items_beside(self, micro_batch: int, length: int) -> int:
        """The most that go through the model at once with an example of so many items, or the next larger one."""
        epoch = self.first_epoch(micro_batch)
        near = epoch.length[epoch.length >= length].min()
        return int(epoch.count[epoch.length == near].max())

    @cached_property
    def _groups(self) -> Groups:
        bucket_lengths = self.slicing.told_lengths() if self.slicing.padding == "bucket" else None
        return Groups(len(self.slicing.lengths), self.group, self.config.run.seed, bucket_lengths)

"""Which examples make each optimizer step: a pure function of the seed, the epoch and the committed position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runner.randomness import permutation

BUCKET = 50  # groups whose examples are sorted among themselves: enough for equal lengths, few enough to stay random


class Groups:
    """The order of an epoch, cut into groups of `global_batch`; how a group is sliced does not matter here."""

    def __init__(
        self, num_examples: int, global_batch: int, seed: int, bucket_lengths: Sequence[int] | None = None
    ) -> None:
        """With `bucket_lengths` examples of like length come in one group."""
        self.num_examples = num_examples
        self._global_batch = global_batch
        self._seed = seed
        self._lengths = bucket_lengths
        self._epoch = -1
        self._order: list[int] = []

    def at(self, epoch: int, position: int) -> list[int]:
        """The next group after `position` committed examples of `epoch`; the last of an epoch may be short."""
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.order(epoch)
        return self._order[position : position + self._global_batch]

    def after(self, epoch: int, position: int, count: int) -> Iterator[tuple[int, list[int]]]:
        """The epoch and the examples of the `count` groups from there on, over the ends of epochs."""
        order = self._order if epoch == self._epoch else self.order(epoch)
        for _ in range(count):
            if position >= self.num_examples:
                epoch, position = epoch + 1, 0
                order = self.order(epoch)
            yield epoch, order[position : position + self._global_batch]
            position += self._global_batch

    def order(self, epoch: int) -> list[int]:
        """All examples of an epoch."""
        order = permutation(self.num_examples, self._seed, "order", epoch)
        return order if self._lengths is None else self._bucketed(order, self._lengths, epoch)

    def _bucketed(self, order: list[int], lengths: Sequence[int], epoch: int) -> list[int]:
        """The same examples: sorted by length within buckets, then the groups shuffled; a short one stays the last."""
        size = self._global_batch
        whole = len(order) // size * size
        groups = []
        for start in range(0, whole, BUCKET * size):
            bucket = sorted(order[start : min(start + BUCKET * size, whole)], key=lambda index: lengths[index])
            groups += [bucket[place : place + size] for place in range(0, len(bucket), size)]
        shuffled = [groups[place] for place in permutation(len(groups), self._seed, "groups", epoch)]
        return [index for group in shuffled for index in group] + order[whole:]

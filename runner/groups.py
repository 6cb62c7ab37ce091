"""Which examples make each optimizer step: a pure function of the seed, the epoch and the committed position."""

from __future__ import annotations

from runner.randomness import permutation


class Groups:
    """The order of an epoch, cut into groups of `global_batch`; how a group is sliced does not matter here."""

    def __init__(self, num_examples: int, global_batch: int, seed: int) -> None:
        self.num_examples = num_examples
        self._global_batch = global_batch
        self._seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def at(self, epoch: int, position: int) -> list[int]:
        """The next group after `position` committed examples of `epoch`; the last of an epoch may be short."""
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self.order(epoch)
        return self._order[position : position + self._global_batch]

    def order(self, epoch: int) -> list[int]:
        """All examples of an epoch."""
        return permutation(self.num_examples, self._seed, "order", epoch)

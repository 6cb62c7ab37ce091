"""Tells the forecast how long the longest example of each step to come is: the rest of this epoch and all of the next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memdash.agent.session import Session
from runner.groups import Groups
from runner.optimizer import Plan
from runner.step import GroupStep
from runner.training_state import Progress


class Lookahead:
    """Says so once an epoch, and again after a step that was cut smaller: shorter ones may not fit either."""

    def __init__(
        self, session: Session, groups: Groups, plan: Plan, lengths: Sequence[int], flat: GroupStep | None = None
    ) -> None:
        """`flat` where nothing is padded: then it is the items of a step's largest slice that tell, as it is cut now."""
        self._flat = flat
        self._session = session
        self._groups = groups
        self._plan = plan
        self._lengths = np.asarray(lengths)
        self._means_nothing = bool((self._lengths == self._lengths[0]).all())
        self._told = (-1, 0)

    def tell(self, progress: Progress, *, again: bool = False) -> None:
        """Once an epoch, unless it is to be said again; after the step was reported."""
        now = (progress.epoch, self._flat.split.micro_batch if self._flat else 0)
        if self._means_nothing or (now == self._told and not again):
            return
        self._told = now
        longest, examples = self._steps(progress.epoch, progress.position)
        more, others = self._steps(progress.epoch + 1, 0)
        left = self._plan.total_steps - progress.step
        self._session.coming((longest + more)[:left], (examples + others)[:left])

    def _steps(self, epoch: int, position: int) -> tuple[list[int], list[int]]:
        """The longest length of each group that is left of an epoch, and the index of the example that has it."""
        left, size = self._groups.order(epoch)[position:], self._plan.global_batch
        if self._flat is not None:
            told = [self._flat.tells(left[start : start + size]) for start in range(0, len(left), size)]
            return [items for items, _ in told], [example for _, example in told]
        order = np.asarray(left)
        lengths = self._lengths[order]
        whole = len(order) // size * size
        rows = lengths[:whole].reshape(-1, size)
        places = rows.argmax(axis=1) + np.arange(0, whole, size) if whole else np.empty(0, dtype=int)
        if whole < len(order):  # the short last group
            places = np.append(places, whole + lengths[whole:].argmax())
        return lengths[places].tolist(), order[places].tolist()

"""Tells the forecast how long the longest example of each step to come is: the rest of this epoch and all of the next."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memdash.agent.session import Session
from runner.groups import Groups
from runner.optimizer import Plan
from runner.step import GroupStep
from runner.training_state import Progress

TELLS = 64
"""So often an epoch at most it is told again because the longest that was told of is past."""


class Lookahead:
    """Says so once an epoch, and again when what was said no longer names the first step over any limit.

    That is so after a step that was cut smaller, and when the longest that was told of has been trained. Steps that are cut
    smaller anyway are left out: because groups as long did not fit before, because it was asked for, or because they are
    the short last of an epoch.
    """

    def __init__(self, session: Session, groups: Groups, plan: Plan, step: GroupStep, *, flat: bool = False) -> None:
        """`flat` where nothing is padded: then it is the items of a step's largest slice that tell, as it is cut now."""
        self._session = session
        self._groups = groups
        self._plan = plan
        self._step = step
        self._flat = flat
        self._lengths = np.asarray(step.lengths)
        self._means_nothing = bool((self._lengths == self._lengths[0]).all())
        self._told: tuple[object, ...] = ()
        self._told_at = 0
        self._longest_at = 0
        """The step with the longest example of those that were told of."""

    def tell(self, progress: Progress, *, again: bool = False) -> None:
        """After the step was reported."""
        if self._means_nothing:
            return
        length, steps = self._step.growth.kept_small()
        now = (
            progress.epoch,
            self._step.split.micro_batch if self._flat else 0,
            length,
            progress.step + steps if length else 0,
            self._step.capped_steps,
        )
        if now == self._told and not again and not self._longest_is_past(progress.step):
            return
        self._told, self._told_at = now, progress.step
        told, examples = self._steps(progress.epoch, progress.position, length, steps)
        more, others = self._steps(progress.epoch + 1, 0, length, max(0, steps - len(told)))
        left = self._plan.total_steps - progress.step
        told, examples = (told + more)[:left], (examples + others)[:left]
        for step in self._step.capped_steps:
            if 0 < step - progress.step <= len(told):
                told[step - progress.step - 1] = 0
        self._longest_at = progress.step + 1 + int(np.argmax(told)) if told else progress.step
        self._session.coming(told, examples)

    def _longest_is_past(self, step: int) -> bool:
        """In an epoch of ever shorter examples it always is, so not every time."""
        every = max(1, -(-len(self._lengths) // self._plan.global_batch) // TELLS)
        return step >= self._longest_at and step >= self._told_at + every

    def _steps(self, epoch: int, position: int, cut_length: int, cut_steps: int) -> tuple[list[int], list[int]]:
        """What tells the load of each group that is left of an epoch, 0 where it is cut anyway, and whose it is."""
        left, size = self._groups.order(epoch)[position:], self._plan.global_batch
        longest, examples = self._longest(np.asarray(left), size)
        told = longest
        if self._flat:
            tells = [self._step.tells(left[start : start + size]) for start in range(0, len(left), size)]
            told, examples = (np.asarray([each[place] for each in tells], dtype=int) for place in (0, 1))
        told = told.copy()
        told[:cut_steps][longest[:cut_steps] >= cut_length] = 0
        if 0 < len(left) % size < self._step.split.micro_batch:
            told[-1] = 0
        return told.tolist(), examples.tolist()

    def _longest(self, order: npt.NDArray[np.int_], size: int) -> tuple[npt.NDArray[np.int_], npt.NDArray[np.int_]]:
        """The longest length of each group, and the index of the example that has it."""
        lengths = self._lengths[order]
        whole = len(order) // size * size
        rows = lengths[:whole].reshape(-1, size)
        places = rows.argmax(axis=1) + np.arange(0, whole, size) if whole else np.empty(0, dtype=int)
        if whole < len(order):  # the short last group
            places = np.append(places, whole + lengths[whole:].argmax())
        return lengths[places], order[places]

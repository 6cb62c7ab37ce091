"""What the runner says of steps to come is what it then trains."""

from __future__ import annotations

from memdash.config import TrainSection
from runner.groups import Groups
from runner.lookahead import Lookahead
from runner.optimizer import Plan
from runner.training_state import Progress

LENGTHS = [3, 9, 4, 1, 5, 9, 2, 6, 5, 3, 5]


class Listening:
    def __init__(self) -> None:
        self.said: list[tuple[list[int], list[int]]] = []

    def coming(self, longest, examples):
        self.said.append((longest, examples))


def lookahead(lengths=LENGTHS, epochs=3.0) -> tuple[Lookahead, Listening, Groups]:
    session, groups = Listening(), Groups(len(lengths), 4, seed=7)
    plan = Plan(len(lengths), 4, TrainSection(global_batch=4, epochs=epochs))
    return Lookahead(session, groups, plan, lengths), session, groups


def trained(groups: Groups, epoch: int, position: int = 0) -> list[int]:
    """The longest of each group, as the loop takes them."""
    longest = []
    while indices := groups.at(epoch, position):
        longest.append(max(LENGTHS[index] for index in indices))
        position += len(indices)
    return longest


def test_the_rest_of_this_epoch_and_the_next():
    ahead, session, groups = lookahead()
    ahead.tell(Progress())
    ((longest, examples),) = session.said
    assert longest == trained(groups, 0) + trained(groups, 1)
    assert [LENGTHS[example] for example in examples] == longest
    ahead.tell(Progress(step=1, position=4))
    assert len(session.said) == 1  # said already
    ahead.tell(Progress(step=1, position=4), again=True)
    assert session.said[1][0] == trained(groups, 0, 4) + trained(groups, 1)
    ahead.tell(Progress(step=3, epoch=1))
    assert session.said[2][0] == trained(groups, 1) + trained(groups, 2)


def test_nothing_is_said_beyond_the_end():
    ahead, session, groups = lookahead(epochs=1.0)
    ahead.tell(Progress())
    assert session.said[0][0] == trained(groups, 0)


def test_lengths_that_are_all_alike_mean_nothing():
    ahead, session, _ = lookahead([1] * 11)
    ahead.tell(Progress())
    assert session.said == []

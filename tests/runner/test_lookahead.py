"""What the runner says of steps to come is what it then trains."""

from __future__ import annotations

from memdash.batching import BatchSplit
from memdash.config import TrainSection
from runner.groups import Groups
from runner.growth import Growth
from runner.lookahead import Lookahead
from runner.optimizer import Plan
from runner.training_state import Progress

LENGTHS = [3, 9, 4, 1, 5, 9, 2, 6, 5, 3, 5]


class Listening:
    def __init__(self) -> None:
        self.said: list[tuple[list[int], list[int]]] = []

    def coming(self, longest, examples):
        self.said.append((longest, examples))


class Sizing:
    """Of a step: how long the examples are, and which groups are cut anyway."""

    def __init__(self, lengths) -> None:
        self.lengths = lengths
        self.growth = Growth.start(4, 4, after=4)
        self.split = BatchSplit(4, 2)
        self.capped_steps: frozenset[int] = frozenset()


def lookahead(lengths=LENGTHS, epochs=3.0, sizing: Sizing | None = None) -> tuple[Lookahead, Listening, Groups]:
    session, groups = Listening(), Groups(len(lengths), 4, seed=7)
    plan = Plan(len(lengths), 4, TrainSection(global_batch=4, epochs=epochs))
    return Lookahead(session, groups, plan, sizing or Sizing(lengths)), session, groups


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
    ahead.tell(Progress())
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


def test_what_is_cut_smaller_anyway_is_left_out_while_that_lasts():
    sizing = Sizing(LENGTHS)
    ahead, session, groups = lookahead(sizing=sizing)
    ahead.tell(Progress())
    sizing.growth.failed(4, 9, 2)  # settled at 2: a cut of 4 is not what comes
    ahead.tell(Progress())
    assert len(session.said) == 1
    for _ in range(5):
        sizing.growth.succeeded(sizing.growth.choose(3), 3)
    assert sizing.growth.settled == 4
    ahead.tell(Progress(step=1, position=4))
    everything = trained(groups, 0, 4) + trained(groups, 1)
    steps = sizing.growth.kept_small()[1]
    assert 0 < steps < len(everything)
    expected = [0 if longest >= 9 and place < steps else longest for place, longest in enumerate(everything)]
    assert session.said[1][0] == expected != everything
    ahead.tell(Progress(step=3, epoch=1))
    assert len(session.said) == 3


def test_when_the_longest_is_past_the_rest_is_told():
    """A larger micro-batch may be asked for then, and one of the shorter ones no longer fit."""
    ahead, session, groups = lookahead(epochs=1.0)
    ahead.tell(Progress())
    everything = trained(groups, 0)
    peak = everything.index(max(everything)) + 1
    for step in range(1, peak + 1):
        ahead.tell(Progress(step=step, position=4 * step))
        assert len(session.said) == 1 + (step == peak)
    assert session.said[1][0] == everything[peak:]


def test_it_is_not_told_after_each_step_of_ever_shorter_ones():
    lengths = list(range(4000, 0, -1))
    ahead, session, _ = lookahead(lengths, epochs=1.0)
    ahead._groups.order = lambda epoch: list(range(4000))
    for step in range(1000):
        ahead.tell(Progress(step=step, position=4 * step))
    assert 50 <= len(session.said) <= 70


def test_what_was_asked_to_be_cut_is_left_out_and_what_comes_behind_it_is_named():
    sizing = Sizing(LENGTHS)
    ahead, session, groups = lookahead(sizing=sizing)
    ahead.tell(Progress())
    everything = session.said[0][0]
    peak = everything.index(max(everything))
    sizing.capped_steps = frozenset({peak + 1})
    ahead.tell(Progress())
    assert session.said[1][0] == [0 if place == peak else longest for place, longest in enumerate(everything)]
    ahead.tell(Progress())
    assert len(session.said) == 2


def test_the_short_last_group_is_left_out_where_it_is_no_slice():
    sizing = Sizing(LENGTHS[:9])
    ahead, session, _ = lookahead(LENGTHS[:9], epochs=1.0, sizing=sizing)
    ahead.tell(Progress())
    assert session.said[0][0][-1] == 0  # one example, of slices of two
    sizing.split = BatchSplit(4, 1)
    ahead.tell(Progress(), again=True)
    assert session.said[1][0][-1] > 0

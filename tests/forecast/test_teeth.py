"""Rises that were given back are remembered by how much came back and how long it had taken to rise."""

from __future__ import annotations

import random

import pytest

from memdash.forecast.teeth import MAX_MARKS, MAX_TEETH, Teeth


def fed(values: list[float]) -> Teeth:
    teeth = Teeth()
    for time_s, value in enumerate(values):
        teeth.add(float(time_s), value)
    return teeth


RISE = [float(step) for step in range(11)]  # 10 in 10 s
CASES = {
    "it has not fallen": (RISE, (1, 0), False),
    "all of it": ([*RISE, 0.0], (10, 10), True),
    "no larger one": ([*RISE, 0.0], (10.1, 0), False),
    "no longer one": ([*RISE, 0.0], (10, 10.1), False),
    "the last of it": ([*RISE, 7.0], (3, 3), True),
    "no more than the last of it": ([*RISE, 7.0], (3.1, 0), False),
    "little by little": ([*RISE, 8.0, 5.0, 2.0], (8, 8), True),
    "on what came before it": ([0.0, 100.0, *(100 + each for each in RISE), 100.0], (10, 10), True),
    "below where all began": ([*RISE, -5.0], (15, 10), True),
    "the second of two": ([*RISE, 0.0, *(2 * each for each in RISE), 1.0], (19, 9), True),
    "a dip on the way": ([*RISE, 9.0, *(10 + each for each in RISE), 0.0], (20, 21), True),
}


@pytest.mark.parametrize(("values", "asked", "found"), CASES.values(), ids=CASES)
def test_what_was_given_back(values, asked, found):
    assert fed(values).any_like(*asked) is found


def test_it_is_bounded_and_keeps_the_largest():
    rising = fed([float(step) for step in range(5000)])
    assert len(rising._marks) <= MAX_MARKS + 1
    rising.add(5000.0, 2500.0)
    assert rising.any_like(2499, 2300)  # when it began is known to a few parts in a hundred
    chance = random.Random(1)
    noisy = fed([*RISE, 0.0, *(chance.random() for _ in range(5000))])
    assert len(noisy._largest) <= MAX_TEETH
    assert len(noisy._marks) <= MAX_MARKS + 1
    assert noisy.any_like(10, 10)

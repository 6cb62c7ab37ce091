"""Every split covers the group exactly once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdash.batching import BatchSplit, divisors, next_larger, next_smaller, slices
from memdash.errors import PlanError


@given(st.integers(0, 500), st.integers(1, 600))
def test_slices_cover_each_example_once(count, micro_batch):
    covered = [index for start, stop in slices(count, micro_batch) for index in range(start, stop)]
    assert covered == list(range(count))
    assert all(0 < stop - start <= micro_batch for start, stop in slices(count, micro_batch))


@pytest.mark.parametrize(
    ("split", "text", "grad_accum_steps"),
    [
        (BatchSplit(16, 16), "16 x 1 = 16", 1),
        (BatchSplit(16, 4), "4 x 4 = 16", 4),
        (BatchSplit(8, 3), "3+3+2 = 8", 3),
        (BatchSplit(16, 4, 2), "4 x 2 x 2 ranks = 16", 2),
    ],
)
def test_split(split, text, grad_accum_steps):
    assert (str(split), split.grad_accum_steps) == (text, grad_accum_steps)


@pytest.mark.parametrize(
    ("global_batch", "micro_batch", "world_size", "message"),
    [
        (16, 17, 1, "micro_batch=17 is not between 1 and 16"),
        (16, 0, 1, "micro_batch=0 is not between 1 and 16"),
        (16, 9, 2, "micro_batch=9 is not between 1 and 8"),
        (15, 1, 2, "not a multiple of world_size=2"),
        (0, 1, 1, "must be at least 1"),
    ],
)
def test_impossible_splits(global_batch, micro_batch, world_size, message):
    with pytest.raises(PlanError, match=message):
        BatchSplit(global_batch, micro_batch, world_size)


def test_changing_the_split_keeps_the_global_batch():
    assert BatchSplit(16, 16).with_micro_batch(5) == BatchSplit(16, 5)


@pytest.mark.parametrize(
    ("group", "micro_batch", "smaller", "larger"),
    [
        (16, 16, 8, None),
        (16, 8, 4, 16),
        (16, 1, None, 2),
        (12, 12, 6, None),
        (12, 3, 1, 6),
        (7, 7, 1, None),
        (7, 1, None, 7),
    ],
)
def test_neighbours(group, micro_batch, smaller, larger):
    assert next_smaller(group, micro_batch) == smaller
    assert next_larger(group, micro_batch) == larger


def test_divisors():
    assert divisors(12) == [1, 2, 3, 4, 6, 12]

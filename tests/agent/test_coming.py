"""Whatever the limit, the first value over it is among the records."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memdash.agent.coming import MAX_STEPS, records


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(0, 50))
def test_the_first_over_any_limit_is_a_record(longest, limit):
    first = next((position for position, value in enumerate(longest) if value > limit), None)
    over = [position for position in records(longest) if longest[position] > limit]
    assert (over[0] if over else None) == first


def test_epochs_sorted_by_length_are_thinned_out():
    longest = list(range(1, 100_000))
    kept = records(longest)
    assert len(kept) <= MAX_STEPS + 1
    assert kept[0] == 0
    assert kept[-1] == len(longest) - 1

"""Peaks are learnt from loads, and what was not seen is told with an honest interval."""

from __future__ import annotations

import random

import pytest

from memdash.forecast.lookahead import Coming, Misfit, first_misfit
from memdash.forecast.peak import MAX_CELLS, Estimate, PeakModel, solve


def bert(micro_batch: int, longest: int) -> float:
    return 1000 + micro_batch * longest * 9 + micro_batch * longest**2 * 0.1


def learnt(law=bert, loads=None) -> PeakModel:
    model = PeakModel()
    for micro_batch, longest in loads or [(8, n) for n in range(16, 160, 7)]:
        model.add(micro_batch, longest, law(micro_batch, longest))
    model.refit()
    return model


@pytest.mark.parametrize(("micro_batch", "longest"), [(8, 100), (8, 200), (8, 2000), (1, 2000), (2, 500)])
def test_the_law_of_attention_is_found(micro_batch, longest):
    need = learnt().estimate(micro_batch, longest)
    assert need.likely_bytes == pytest.approx(bert(micro_batch, longest), rel=0.02)
    assert need.low_bytes <= bert(micro_batch, longest) <= need.high_bytes
    assert need.seen == (micro_batch * longest <= 8 * 156)


@pytest.mark.parametrize(
    "law",
    [
        lambda m, n: 500 + m * n * 20,
        lambda m, n: max(4000, 1000 + m * n * 9),
        lambda m, n: bert(m, n) * random.Random(m * n).uniform(0.97, 1.0),
    ],
    ids=["without attention", "hidden below another peak", "rounded by an allocator"],
)
def test_other_laws_lie_in_the_interval(law):
    need = learnt(law).estimate(8, 400)
    assert need.low_bytes <= law(8, 400) <= need.high_bytes
    assert need.high_bytes < 4 * law(8, 400)


def test_one_wild_step_does_not_bend_the_law():
    model = learnt()
    model.add(8, 30, 60_000)  # such as an evaluation that ran in between
    model.refit()
    assert model.estimate(8, 1000).likely_bytes == pytest.approx(bert(8, 1000), rel=0.1)


def test_too_little_was_seen():
    model = PeakModel()
    assert model.estimate(8, 100) is None
    model.add(8, 100, 5000)
    model.refit()
    assert model.estimate(8, 200) is None
    smaller = model.estimate(4, 100)
    assert (smaller.likely_bytes, smaller.seen) == (5000, True)  # it needs no more than a larger load did


def test_the_first_few_steps_are_no_law():
    """Optimizer state is made in them, and sorted lengths differ by little."""
    model = learnt(lambda m, n: bert(m, n) + (3000 if n < 20 else 0), [(8, n) for n in range(16, 22)])
    assert model.estimate(8, 400) is None


def test_a_law_needs_no_more_than_smaller_loads_did():
    """A parabola fits the end of a straight line nearly as well, and is far off beyond it."""
    model = learnt(lambda m, n: (1000 + m * n * 9) * random.Random(n).uniform(0.99, 1.0))
    need = model.estimate(8, 800)
    assert need.likely_bytes == pytest.approx(1000 + 8 * 800 * 9, rel=0.05)
    assert need.low_bytes > 0.9 * need.likely_bytes


def test_a_few_loads_are_sure_of_nothing_that_one_form_alone_says():
    def law(m, n):  # straight, but for what an allocator rounds
        return (1000 + m * n * 9) * (1.0 + 0.02 * (n > 60))

    few = learnt(law, [(8, n) for n in range(16, 80, 8)]).estimate(8, 800)
    assert few.likely_bytes > 1.4 * law(8, 800)
    assert few.middle_bytes < 1.25 * law(8, 800)


def test_nothing_is_said_where_lengths_do_not_explain_the_peaks():
    drawn = random.Random(7)
    model = learnt(lambda m, n: drawn.uniform(1000, 9000))
    assert model.estimate(8, 2000) is None
    assert model.estimate(8, 100).seen  # as large loads as that were seen


def test_a_few_lengths_are_enough_after_a_while():
    """As where it is items that count, of which an example has four at most."""
    few = [(8, n % 4 + 1) for n in range(23)]
    assert learnt(loads=few).estimate(8, 12) is None
    assert learnt(loads=[*few, (8, 2)]).estimate(8, 12).likely_bytes == pytest.approx(bert(8, 12), rel=0.02)


def test_the_farther_from_what_was_seen_the_wider():
    law = {n: bert(8, n) * random.Random(n).uniform(0.9, 1.0) for n in range(16, 160, 7)}
    model = learnt(lambda m, n: law[n])
    near, far = model.estimate(8, 160), model.estimate(8, 1600)
    assert far.high_bytes - far.likely_bytes >= 8 * (near.high_bytes - near.likely_bytes)


def test_large_loads_may_need_more_than_the_law_of_small_ones():
    """Another of the sums that a peak is the largest of takes over where nothing has been seen yet."""
    need = learnt().estimate(8, 600)
    assert need.middle_bytes == pytest.approx(1.11 * need.likely_bytes, rel=0.02)
    assert need.high_bytes == pytest.approx(1.23 * need.likely_bytes, rel=0.02)
    assert need.on(1000).middle_bytes == need.middle_bytes + 1000
    seen = learnt().estimate(8, 140)
    assert seen.middle_bytes == seen.likely_bytes


def test_a_fit_is_kept_while_it_explains_what_comes():
    model = learnt()
    before = model._forms
    model.add(8, 158, bert(8, 158))
    model.refit()
    assert model._forms is before
    model.add(8, 159, 2 * bert(8, 159))
    model.refit()
    assert model._forms is not before


def test_without_lengths_the_micro_batch_alone_tells():
    model = learnt(lambda m, n: 100 + 50 * m, [(m, 0) for m in (1, 2, 3, 4, 5, 6, 7, 8)])
    assert model.estimate(16, 0).likely_bytes == pytest.approx(900, rel=0.02)


def test_memory_is_bounded_and_keeps_the_largest_loads():
    model = learnt(loads=[(m, n) for m in (1, 2, 4, 8) for n in range(1, 3000)])
    assert len(model) <= MAX_CELLS
    assert model.estimate(8, 2999).seen


def test_the_largest_that_fits():
    model = learnt()
    assert model.largest_that_fits([1, 2, 4, 8], 1000, 300_000) == (2, True)
    assert model.largest_that_fits([1, 2, 4, 8], 1000, 50_000) == (None, False)


COMING = [Coming(3, 90, 11), Coming(20, 400, 22), Coming(50, 2000, 33)]


def misfit(capacity: float, done: int = 0, caps=None):
    return first_misfit(
        COMING,
        learnt(),
        done_steps=done,
        micro_batch=8,
        choices=[1, 2, 4, 8],
        floor_bytes=5000,
        capacity_bytes=capacity,
        caps=caps,
    )


@pytest.mark.parametrize(
    ("capacity", "done", "caps", "step", "fitting"),
    [
        (1e9, 0, None, None, None),
        (1.2e6, 0, None, 50, 2),
        (1e5, 0, None, 20, 4),
        (1e5, 20, None, 50, None),
        (1.2e6, 0, {50: 2}, None, None),
        (1.2e6, 50, None, None, None),
    ],
)
def test_the_first_step_that_does_not_fit_is_named(capacity, done, caps, step, fitting):
    found = misfit(capacity, done, caps)
    assert (found.coming.step if found else None) == step
    if found:
        assert found.fitting_micro_batch == fitting
        assert found.sure(capacity, in_s=1000.0)
        assert found.need.likely_bytes == pytest.approx(5000 + bert(8, found.coming.longest), rel=0.02)


@pytest.mark.parametrize(
    ("likely", "middle", "in_s", "sure"),
    [(101, 110, 900, True), (99, 101, 900, False), (99, 101, 20, True), (90, 99, 20, False)],
)
def test_what_may_not_fit_is_sure_only_when_it_is_near(likely, middle, in_s, sure):
    need = Estimate(80, likely, 120, seen=False, middle_bytes=middle)
    assert Misfit(Coming(7, 50, 1), need, 2, surely=True).sure(100, in_s) is sure


def test_a_long_list_is_not_walked():
    model, asked = learnt(), []

    class Asked(PeakModel):
        def estimate(self, micro_batch, longest):
            asked.append(longest)
            return model.estimate(micro_batch, longest)

    room, coming = bert(8, 4000), [Coming(step, 100 + step, step) for step in range(8000)]
    found = first_misfit(coming, Asked(), done_steps=5, micro_batch=8, choices=[1], floor_bytes=0, capacity_bytes=room)
    assert len(asked) < 32
    assert found.coming == next(each for each in coming if model.estimate(8, each.longest).middle_bytes > room)


def test_elimination():
    assert solve([[2.0, 1.0], [1.0, 3.0]], [5.0, 10.0]) == pytest.approx([1.0, 3.0])
    assert solve([[1.0, 2.0], [2.0, 4.0]], [1.0, 2.0]) is None

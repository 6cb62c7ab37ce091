"""No spike is lost, however long the series and however coarse the buckets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdash.buckets import Bucket, BucketSeries

SAMPLES = st.lists(
    st.tuples(st.floats(1.7e9, 1.7e9 + 1e5), st.floats(-1e12, 1e12)), min_size=1, max_size=300
)  # 28 hours


@given(SAMPLES)
def test_extremes_survive_in_bounded_memory(samples):
    series = BucketSeries(max_buckets=16)
    for time_s, value in samples:
        series.add(time_s, value)
    buckets = [bucket for _, bucket in series.items()]
    assert len(buckets) <= 16
    assert min(b.minimum for b in buckets) == min(value for _, value in samples)
    assert max(b.maximum for b in buckets) == max(value for _, value in samples)


@given(SAMPLES)
def test_a_copy_made_by_merging_is_the_same(samples):
    series = BucketSeries(max_buckets=16)
    for time_s, value in samples:
        series.add(time_s, value)
    copy = BucketSeries(max_buckets=16)
    items = series.items()
    for _ in range(2):  # merging twice changes nothing
        copy.merge(
            series.bucket_s,
            [index for index, _ in items],
            [bucket.minimum for _, bucket in items],
            [bucket.maximum for _, bucket in items],
            [bucket.last for _, bucket in items],
        )
    assert copy.items() == items


@given(SAMPLES, st.integers(1, 20))
def test_many_at_once_are_the_same_as_one_after_the_other(samples, step):
    one, many = BucketSeries(max_buckets=16), BucketSeries(max_buckets=16)
    samples = [(time_s, math.nan if value > 9e11 else value) for time_s, value in samples]
    for time_s, value in samples:
        if not math.isnan(value):
            one.add(time_s, value)
    for start in range(0, len(samples), step):
        part = samples[start : start + step]
        many.extend([time_s for time_s, _ in part], [value for _, value in part])
    assert (many.bucket_s, many.items()) == (one.bucket_s, one.items())


@given(SAMPLES)
def test_what_was_packed_comes_back_and_goes_on(samples):
    series = BucketSeries(max_buckets=16)
    series.extend([time_s for time_s, _ in samples], [value for _, value in samples])
    copy = BucketSeries(max_buckets=16)
    copy.unpack(series.pack())
    for each in (series, copy):
        each.add(1.7e9 + 5e4, 7.0)
    assert (copy.bucket_s, copy.items()) == (series.bucket_s, series.items())


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:10], lambda data: data + b"x"])
def test_what_is_not_packed_buckets_changes_nothing(damage):
    series = BucketSeries()
    series.add(10.0, 1.0)
    before = series.items()
    with pytest.raises(ValueError, match="packed buckets"):
        series.unpack(damage(series.pack()))
    assert series.items() == before


@pytest.mark.parametrize(
    ("before_s", "indices"),
    [(math.inf, [10, 11, 14]), (14.9, [10, 11]), (15.0, [10, 11, 14]), (11.0, [10]), (10.5, []), (0.0, [])],
)
def test_slices_hold_only_buckets_that_end_before(before_s, indices):
    series = BucketSeries(bucket_s=1.0)
    series.extend([10.2, 11.9, 14.0], [1.0, 2.0, 3.0])
    slices = list(series.slices(2, before_s))
    assert [index for part in slices for index in part[0]] == indices
    assert all(len(part[0]) <= 2 for part in slices)


def test_columns_keep_gaps_and_spikes():
    series = BucketSeries(bucket_s=1.0)
    for time_s, value in ((100, 1.0), (101, 9.0), (102, 2.0), (107, 3.0)):
        series.add(time_s, value)
    assert series.columns(100, 108, 4) == [Bucket(1.0, 9.0, 9.0), Bucket(2.0, 2.0, 2.0), None, Bucket(3.0, 3.0, 3.0)]


def test_span_and_last():
    series = BucketSeries(bucket_s=0.5)
    assert (series.span_s, series.last, len(series)) == (None, None, 0)
    series.add(10.0, 1.0)
    series.add(11.2, 2.0)
    assert (series.span_s, series.last, len(series)) == ((10.0, 11.5), 2.0, 2)

"""No spike is lost, however long the series and however coarse the buckets."""

from __future__ import annotations

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

"""Columns of a plot: aligned, of stable widths, and no spike lost."""

from __future__ import annotations

import math

import pytest

from memdash import wire
from memdash.tui.series import MIN_SPAN_S, SeriesStore, Track, Window, column_width, window
from tests.tui import scenes


@pytest.mark.parametrize(
    ("span_s", "count", "width_s"),
    [
        (1, 100, 0.25),
        (25, 100, 0.25),
        (26, 100, 0.5),
        (100, 100, 1.0),
        (101, 100, 1.25),
        (170, 100, 1.75),
        (180, 100, 2.0),
        (43_200, 200, 224.0),
        (10, 0, 10.0),
    ],
)
def test_column_width(span_s: float, count: int, width_s: float) -> None:
    assert column_width(span_s, count) == width_s


@pytest.mark.parametrize("span_s", [3, 60, 333, 4000, 43_210, 1_000_000])
def test_columns_cover_the_span_and_waste_little(span_s: float) -> None:
    covered = column_width(span_s, 100) * 100
    assert covered >= span_s
    assert covered <= max(25, span_s * 1.6 if span_s < 100 else span_s * 1.26)


@pytest.mark.parametrize(
    ("age_s", "span_s", "starts_at_s", "covers_s"),
    [
        (0, None, 0, MIN_SPAN_S),  # just created: the axis is not empty
        (90, None, 0, 90),
        (90, 300, 0, 90),  # younger than the window: from the start
        (900, 300, 600, 300),
        (900, None, 0, 900),
    ],
)
def test_window(age_s: float, span_s: float | None, starts_at_s: float, covers_s: float) -> None:
    shown = window(scenes.T0, scenes.T0 + age_s, span_s, 100)
    assert shown.elapsed_s(0) == pytest.approx(starts_at_s, abs=0.27 * covers_s)
    assert shown.elapsed_s(shown.count) >= age_s
    assert shown.width_s * shown.count >= covers_s
    assert (shown.start * shown.width_s) % shown.width_s == 0


def test_a_window_moves_by_whole_columns() -> None:
    starts = {window(0.0, 1000 + tick / 10, 300, 100).start * 3 for tick in range(60)}
    assert len(starts) == 3  # six seconds, two for each column of three


def test_a_spike_survives_any_width() -> None:
    track = Track()
    for tick in range(4 * 3600):
        track.add(tick / 4, 1000.0 if tick == 7777 else 1.0)
    for span_s in (None, 3600.0, 2000.0):
        columns = track.columns(window(0.0, 3600.0, span_s, 80))
        assert max(bucket.maximum for bucket in columns if bucket) == 1000.0


def test_the_last_minutes_of_a_history_stay_fine() -> None:
    track, first = Track(), int(scenes.T0 * 4)
    for start in range(0, 6000, 2000):  # 25 minutes: more than wide buckets alone would keep apart
        buckets = list(range(first + start, first + start + 2000))
        values = [float(index) for index in buckets]
        track.merge(
            wire.SeriesHistory(series="x", bucket_s=0.25, buckets=buckets, minimum=values, maximum=values, last=values)
        )
    shown = window(scenes.T0, scenes.T0 + 1499.75, 20.0, 81)
    assert shown.width_s == 0.25
    assert [bucket and bucket.last for bucket in track.columns(shown)] == [first + 5919.0 + n for n in range(81)]


def test_live_samples_land_in_the_same_columns_as_a_rebuild() -> None:
    live, later = Track(), Track()
    shown = window(0.0, 100.0, None, 50)
    live.columns(shown)  # makes the cache, so that every sample is added to it
    for tick in range(400):
        for track in (live, later):
            track.add(tick / 4, math.sin(tick))
    assert live.columns(shown) == later.columns(shown)


def test_a_short_window_on_a_long_run_shows_recent_samples_finely() -> None:
    track = Track()
    for second in range(12 * 3600):
        track.add(float(second), float(second % 7))
    columns = track.columns(window(0.0, 12 * 3600.0, 60.0, 60))
    assert sum(bucket is not None for bucket in columns) >= 55


def test_history_and_live_samples_join() -> None:
    track = Track()
    track.merge(
        wire.SeriesHistory(
            series="loss", bucket_s=4.0, buckets=[0, 1, 2], minimum=[1, 2, 3], maximum=[5, 6, 7], last=[3, 4, 5]
        )
    )
    track.add(12.5, 9.0)
    columns = track.columns(Window(0, 4.0, 4, 0.0, 3))
    assert [(bucket.minimum, bucket.maximum) for bucket in columns if bucket] == [(1, 5), (2, 6), (3, 7), (9, 9)]
    assert track.maximum == 9.0


def test_history_that_comes_after_live_samples_does_not_replace_them() -> None:
    track = Track()
    track.add(100.0, 5.0)
    track.columns(Window(0, 4.0, 40, 0.0, 40))
    track.merge(wire.SeriesHistory(series="x", bucket_s=1.0, buckets=[0], minimum=[1], maximum=[2], last=[1]))
    columns = track.columns(Window(0, 4.0, 40, 0.0, 40))
    assert [index for index, bucket in enumerate(columns) if bucket] == [0, 25]


def test_what_is_not_a_number_is_left_out() -> None:
    track = Track()
    for value in (math.nan, math.inf, -math.inf):
        track.add(1.0, value)
    assert track.last is None


def test_the_store_names_series_as_the_wire_does() -> None:
    store = SeriesStore()
    store.take(scenes.host_sample(1, 2.0, 1.0))
    store.take(scenes.step(1, 1, scenes.device(100, 200, 300)))
    assert store.names() == [
        "device.0.allocated",
        "device.0.peak",
        "device.0.reserved",
        "host.process",
        "host.working_set",
        "loss",
        "step_time_s",
    ]
    assert store["step_time_s"].last == 0.29


def test_a_step_without_figures_adds_none() -> None:
    store = SeriesStore()
    store.take(scenes.step(1, 1, None, loss=None, step_time_s=0.0))
    store.take(scenes.step(1, 1, wire.DeviceMemory(device="cpu", kind="unavailable"), rank=1))
    assert store.names() == []


def test_the_tightest_rank_is_the_one_with_the_highest_peak() -> None:
    store = SeriesStore()
    for rank, peak in ((0, 200), (1, 450), (2, 300)):
        store.take(scenes.step(1, 1, scenes.device(100, peak, 460), rank=rank))
    assert store.tightest_rank() == 1
    assert SeriesStore().tightest_rank() == 0

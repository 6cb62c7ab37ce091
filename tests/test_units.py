"""Sizes, durations and counts as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdash.units import (
    format_bytes,
    format_clock,
    format_count,
    format_duration,
    format_percent,
    parse_bytes,
    parse_duration,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("512", 512),
        ("1KiB", 1024),
        ("1 kb", 1000),
        ("1.5GiB", 1610612736),
        ("1.5 g", 1610612736),
        ("20GB", 20_000_000_000),
        ("2TiB", 2 << 40),
    ],
)
def test_parse_bytes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "GiB", "-1MiB", "1 XB", "1.2.3M", "1e9"])
def test_not_a_size(text):
    with pytest.raises(ValueError, match="is not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "n/a"),
        (0, "0 B"),
        (999, "999 B"),
        (1024, "1.00 KiB"),
        (1023 * 1024, "1.00 MiB"),
        (1610612736, "1.50 GiB"),
        (15 << 30, "15.0 GiB"),
        (-(3 << 20), "-3.00 MiB"),
        (1 << 50, "1024 TiB"),
    ],
)
def test_format_bytes(count, text):
    assert format_bytes(count) == text


@given(st.integers(min_value=0, max_value=1 << 50))
def test_bytes_survive_a_round_trip_to_three_digits(count):
    assert parse_bytes(format_bytes(count)) == pytest.approx(count, rel=0.006)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("8h50m", 31800), ("1d", 86400), ("1.5 h", 5400), ("250ms", 0.25), ("2min", 120)],
)
def test_parse_duration(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "8", "h", "8h50", "8x", "-1h"])
def test_not_a_duration(text):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "n/a"),
        (0.25, "250ms"),
        (5.04, "5.0s"),
        (59.4, "59s"),
        (61, "1m01s"),
        (31800, "8h50m"),
        (90000, "1d01h"),
        (-61, "-1m01s"),
    ],
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "n/a"), (0, "0"), (4.25, "4.2"), (9999, "9,999"), (12345, "12.3k"), (22_713_216, "22.7M")],
)
def test_format_count(number, text):
    assert format_count(number) == text


def test_format_percent():
    assert (format_percent(0.934), format_percent(None)) == ("93%", "n/a")


def test_format_clock():
    assert format_clock(720.0, 0.0) == "12m00s"
    assert format_clock(720.0, 5280.0) == "12m00s, 1h40m in all"

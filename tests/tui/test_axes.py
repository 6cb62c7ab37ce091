"""Ticks are round numbers, far enough apart, and say where the capacity is."""

from __future__ import annotations

import pytest

from memdash.tui.axes import byte_axis, elapsed, number_axis, time_ticks
from memdash.units import GIB, MIB


@pytest.mark.parametrize(
    ("capacity", "rows", "labels"),
    [
        (512 * MIB, 9, ["0", "128M", "256M", "384M", "512M"]),
        (int(7.6 * GIB), 9, ["0", "2G", "4G", "6G", "7.6G"]),
        (80 * GIB, 20, ["0", "16G", "32G", "48G", "64G", "80G"]),
        (15 * GIB, 4, ["0", "8G", "15G"]),
        (1000, 9, ["0", "0.25K", "0.5K", "0.75K", "0.977K"]),
    ],
)
def test_memory_up_to_its_capacity(capacity: int, rows: int, labels: list[str]) -> None:
    axis = byte_axis(0, capacity, rows, capacity)
    assert (axis.low, axis.high) == (0, capacity)
    assert [label for _, label in axis.ticks] == labels


def test_memory_zoomed_in() -> None:
    axis = byte_axis(3.1 * GIB, 3.4 * GIB, 10)
    assert axis.low <= 3.1 * GIB < 3.4 * GIB <= axis.high
    assert len(axis.ticks) >= 2
    assert axis.high - axis.low < 0.5 * GIB


@pytest.mark.parametrize(
    ("low", "high", "rows", "labels"),
    [
        (2.9, 9.2, 10, ["4", "6", "8"]),
        (0.0, 3512.0, 10, ["0", "1000", "2000", "3000"]),
        (0.0, 35_120.0, 10, ["0", "10k", "20k", "30k"]),
        (0.101, 0.109, 12, ["0.102", "0.104", "0.106", "0.108"]),
        (-1.0, 1.0, 6, ["-1", "0", "1"]),
    ],
)
def test_numbers(low: float, high: float, rows: int, labels: list[str]) -> None:
    axis = number_axis(low, high, rows)
    assert axis.low <= low
    assert high <= axis.high
    assert [label for _, label in axis.ticks] == labels


@pytest.mark.parametrize("value", [0.0, 5.0, -3.0, 1e-9, 1e12])
@pytest.mark.parametrize("rows", [1, 2, 9, 50])
def test_one_value_alone_has_an_axis(value: float, rows: int) -> None:
    axis = number_axis(value, value, rows)
    assert axis.low < axis.high
    assert axis.low <= value <= axis.high


@pytest.mark.parametrize(
    ("start_s", "end_s", "columns", "labels"),
    [
        (0, 60, 60, ["0", "15s", "30s", "45s"]),
        (0, 150, 60, ["0", "30s", "1m", "1m30", "2m"]),
        (0, 12 * 3600, 80, ["0", "2h", "4h", "6h", "8h", "10h"]),
        (595, 655, 60, ["10m", "10m15", "10m30", "10m45"]),
        (0, 6 * 86400, 60, ["0", "2d", "4d"]),
        (-5, 25, 30, ["0", "15s"]),
    ],
)
def test_elapsed_time(start_s: float, end_s: float, columns: int, labels: list[str]) -> None:
    assert [label for _, label in time_ticks(start_s, end_s, columns)] == labels


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0"), (59, "59s"), (60, "1m"), (61, "1m01"), (5400, "1h30"), (90_000, "1d01h")]
)
def test_elapsed(seconds: float, text: str) -> None:
    assert elapsed(seconds) == text

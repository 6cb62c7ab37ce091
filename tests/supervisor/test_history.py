"""What a late dashboard gets is what a live one has seen."""

from __future__ import annotations

import math

import pytest

from memdash import wire
from memdash.supervisor.history import CHUNK_BUCKETS, History

STEP = {
    "allocated_bytes": 5,
    "reserved_bytes": 9,
    "peak_allocated_bytes": 8,
    "step_time_s": 0.1,
    "loss": 2.0,
    "step": 1,
}


FIGURES = (*STEP, "time_s", "learning_rate", "micro_batch")


def take(history: History, rank: int, time_s: float, row: dict[str, float | None]) -> None:
    """One row of a rank."""
    row = row | {"time_s": time_s}
    history.load(f"rank-{rank}", columns([{name: row.get(name) for name in FIGURES}]))


def names(history: History) -> set[str]:
    return {message.series for message in history.messages()}


def test_a_step_fills_its_series():
    history = History()
    take(history, 0, 10.0, STEP)
    assert names(history) == {"device.0.allocated", "device.0.reserved", "device.0.peak", "loss", "step_time_s", "step"}


def test_another_rank_fills_only_its_device():
    history = History()
    take(history, 1, 10.0, STEP)
    assert names(history) == {"device.1.allocated", "device.1.reserved", "device.1.peak"}


def test_a_reading_between_steps_has_no_peak():
    history = History()
    take(history, 0, 10.0, STEP | {"step_time_s": None})
    assert names(history) == {"device.0.allocated", "device.0.reserved"}


def test_a_host_peak_between_two_samples_is_kept():
    history = History()
    history.host(10.0, {"working_set_bytes": 5, "peak_working_set_bytes": 50, "process_bytes": 3})
    (series,) = [message for message in history.messages() if message.series == "host.working_set"]
    assert (series.minimum, series.maximum, series.last) == ([5], [50], [5])


def test_twelve_hours_fit_a_few_messages():
    history = History()
    for beat in range(12 * 3600 * 2):
        history.host(beat / 2, {"working_set_bytes": 10**10 + beat, "process_bytes": 10**9})
    messages = list(history.messages())
    assert len(messages) < 10
    assert all(len(message.buckets) <= CHUNK_BUCKETS for message in messages)
    assert sum(len(wire.encode(message)) for message in messages) < 2 << 20
    assert max(max(message.maximum) for message in messages) == 10**10 + 12 * 3600 * 2 - 1


def columns(rows: list[dict[str, float | None]]) -> dict[str, list[float]]:
    return {name: [math.nan if row[name] is None else row[name] for row in rows] for name in rows[0]}


def rank_rows(count: int) -> list[dict[str, float | None]]:
    """With readings between steps, and steps without a loss."""
    rows = [
        STEP | {"time_s": 0.4 * n, "loss": 9 - n % 7, "learning_rate": 0.1, "micro_batch": 4, "step": n}
        for n in range(count)
    ]
    for n in range(0, count, 5):
        rows[n] |= dict.fromkeys(("step_time_s", "loss", "learning_rate", "micro_batch"))
    for n in range(1, count, 7):
        rows[n]["loss"] = None
    return rows


@pytest.mark.parametrize("rank", [0, 1])
def test_rows_at_once_are_the_same_as_rows_one_by_one(rank):
    rows = rank_rows(6000)
    one, at_once = History(), History()
    for row in rows:
        take(one, rank, row["time_s"], row)
    for start in range(0, len(rows), 1000):
        at_once.load(f"rank-{rank}", columns(rows[start : start + 1000]))
    by_series = [sorted(history.messages(), key=lambda message: message.series) for history in (at_once, one)]
    assert by_series[0] == by_series[1]
    assert at_once.rows == one.rows == {f"rank-{rank}": 6000}


def test_packed_by_another_recipe(monkeypatch):
    history = History()
    take(history, 0, 10.0, STEP)
    packed = history.pack("rank-0")
    copy = History()
    copy.unpack("rank-0", 1, packed)
    assert list(copy.messages()) == list(history.messages())
    monkeypatch.setattr("memdash.supervisor.history.RECIPE", ["other"])
    with pytest.raises(ValueError, match="another recipe"):
        History().unpack("rank-0", 1, packed)


def test_messages_before_a_time():
    history = History()
    for beat in range(100):
        history.host(beat, {"working_set_bytes": 5, "process_bytes": 3})
    assert {max(message.buckets) for message in history.messages(before_s=50.0)} == {49 * 4}

"""What a late dashboard gets is what a live one has seen."""

from __future__ import annotations

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


def names(history: History) -> set[str]:
    return {message.series for message in history.messages()}


def test_a_step_fills_its_series():
    history = History()
    history.rank(0, 10.0, STEP)
    assert names(history) == {"device.0.allocated", "device.0.reserved", "device.0.peak", "loss", "step_time_s", "step"}


def test_another_rank_fills_only_its_device():
    history = History()
    history.rank(1, 10.0, STEP)
    assert names(history) == {"device.1.allocated", "device.1.reserved", "device.1.peak"}


def test_a_reading_between_steps_has_no_peak():
    history = History()
    history.rank(0, 10.0, STEP | {"step_time_s": None})
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

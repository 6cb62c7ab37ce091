"""A run on one axis: attempts end to end, curves that break where nothing is known, marks where they belong."""

from __future__ import annotations

import math

import pytest

from memdash import wire
from memdash.timeline import MAX_POINTS, Curve, Mark, make_timeline


def host(time_s: float, used: float, attempt: int = 0, capacity: float = 100.0) -> dict[str, float | None]:
    return {
        "time_s": time_s,
        "attempt": attempt,
        "process_bytes": used - 1,
        "peak_working_set_bytes": used,
        "capacity_bytes": capacity,
    }


def step(time_s: float, number: int, attempt: int = 0, **more: float | None) -> tuple[int, dict[str, float | None]]:
    row: dict[str, float | None] = {
        "time_s": time_s,
        "attempt": attempt,
        "step": number,
        "micro_batch": 8,
        "loss": 1.0,
        "allocated_bytes": 10.0,
        "reserved_bytes": 30.0,
        "peak_allocated_bytes": 20.0,
        "capacity_bytes": 64.0,
    }
    return 0, {**row, **more}


def between(time_s: float, attempt: int = 0) -> tuple[int, dict[str, float | None]]:
    """A reading between two steps."""
    return step(time_s, 1, attempt, micro_batch=None, loss=None, peak_allocated_bytes=999.0, allocated_bytes=5.0)


def entry(time_s: float, kind: str, text: str, attempt: int = 0) -> wire.JournalEntry:
    return wire.JournalEntry(seq=1, time_s=time_s, attempt=attempt, step=1, level="info", kind=kind, text=text)


def state(**changes: object) -> wire.RunState:
    return wire.RunState(run_id="r", name="r", **{"status": "finished", "attempt": 1, **changes})  # type: ignore[arg-type]


def values(curve: Curve) -> list[float | None]:
    return [None if value != value else value for value in curve.high]


def test_attempts_lie_end_to_end() -> None:
    hosts = [host(1000, 5), host(1010, 7), host(9000, 3, 1), host(9020, 4, 1)]
    ranks = [step(1002, 1), step(1008, 2), step(9005, 3, 1), step(9015, 4, 1)]
    line = make_timeline(state(), [], hosts, ranks)
    assert [(a.at_s, a.length_s, a.first_step, a.last_step) for a in line.launches] == [(0, 10, 1, 2), (10, 20, 3, 4)]
    assert line.length_s == 30
    assert line.capacity_bytes == {"host": 100, "device": 64}
    curve = line.curves["host.working_set"]
    assert values(curve) == [5, 7, None, 3, 4]
    assert curve.at_s == pytest.approx([0, 10, 10, 10, 30], abs=0.3)


def test_the_lowest_capacity_counts_and_what_was_not_recorded_is_not_drawn() -> None:
    line = make_timeline(state(attempt=0), [], [host(0, 5), host(1, 5, capacity=50.0)], [])
    assert line.capacity_bytes == {"host": 50}
    assert line.curves.keys() == {"host.working_set", "host.process"}
    assert make_timeline(state(), [], [], []).launches == []


def test_a_reading_between_steps_is_no_peak_of_a_step() -> None:
    line = make_timeline(state(attempt=0), [], [], [step(0, 1), between(5), step(10, 2)])
    assert values(line.curves["device.peak"]) == [20, 20]
    assert values(line.curves["device.allocated"]) == [10, 5, 10]
    assert (line.launches[0].first_step, line.launches[0].last_step) == (1, 2)


def test_a_line_breaks_in_a_pause_and_where_a_value_is_none() -> None:
    times = [*range(10), *range(100, 110)]
    line = make_timeline(state(attempt=0), [], [], [step(float(t), n) for n, t in enumerate(times, 1)])
    assert values(line.curves["loss"]) == [1.0] * 10 + [None] + [1.0] * 10
    line = make_timeline(
        state(attempt=0), [], [], [step(float(t), t, loss=math.nan if t == 5 else 2.0) for t in range(10)]
    )
    assert values(line.curves["loss"]) == [2.0] * 9


def test_no_spike_is_lost_in_a_long_run() -> None:
    rows = [host(float(t), 90.0 if t == 31_234 else 5.0) for t in range(0, 60_000, 2)]
    curve = make_timeline(state(attempt=0), [], rows, []).curves["host.working_set"]
    assert len(curve.high) <= MAX_POINTS
    assert max(curve.high) == 90.0
    assert curve.at_s[curve.high.index(90.0)] == pytest.approx(31_234, abs=64)


def test_marks_and_outcomes_come_from_the_journal() -> None:
    hosts = [host(100, 5), host(200, 5), host(900, 5, 1), host(950, 5, 1)]
    journal = [
        entry(150, "checkpoint", "full checkpoint of 2 GiB in 3s (schedule): checkpoints/step-1-full"),
        entry(160, "oom", "out of memory in step 41, forward/backward; trying again: micro-batch 8 -> 4"),
        entry(170, "notice", "full checkpoint of nothing"),
        entry(205, "state", "attempt 0 killed: the kernel took it"),  # after the last sample
        entry(910, "checkpoint", "light checkpoint of 1 GiB", 1),
        entry(950, "state", "finished", 1),
        entry(99, "oom", "of an attempt without a sample", 7),
    ]
    line = make_timeline(state(), journal, hosts, [])
    assert line.marks == [Mark(50, "full"), Mark(60, "oom"), Mark(110, "light")]
    assert [launch.outcome for launch in line.launches] == ["killed", "finished"]
    assert make_timeline(state(status="running"), [], hosts, []).launches[1].outcome == ""

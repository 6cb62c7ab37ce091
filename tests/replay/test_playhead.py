"""How far a recording has played: bounded, without its gaps, and never past its end."""

from __future__ import annotations

import pytest

from memdash.replay.playhead import BEFORE_S, GAP_S, LONGEST_LOOK_S, Playhead, speed_for

HEAD = Playhead(start_s=1000.0, end_s=2000.0, time_s=1500.0)


def always(time_s: float) -> float:
    """Something is recorded all the time."""
    return time_s


@pytest.mark.parametrize(
    ("speed", "elapsed_s", "time_s"),
    [
        (1, 0.1, 1500.1),
        (10, 0.1, 1501),
        (1000, 0.1, 1600),
        (1000, 0.9, 2000),  # the end
        (1, 3600, 1500 + LONGEST_LOOK_S),  # the process was stopped for an hour
    ],
)
def test_time_passes(speed, elapsed_s, time_s):
    head = HEAD.at_speed(speed, playing=True).after(elapsed_s, always)
    assert head.time_s == pytest.approx(time_s)
    assert head.playing == (time_s < 2000)


def test_held():
    held = HEAD.at_speed(5, playing=False)
    assert held.after(10, always) == held


@pytest.mark.parametrize(
    ("next_s", "time_s"),
    [(1500.2, 1500.1), (1500.1 + GAP_S, 1500.1), (1800.0, 1800 - BEFORE_S), (1_999.9, 1999.9 - BEFORE_S)],
)
def test_a_gap_is_left_out(next_s, time_s):
    assert HEAD.after(0.1, lambda now_s: next_s).time_s == pytest.approx(time_s)


@pytest.mark.parametrize(("to_s", "time_s"), [(1200, 1200), (999, 1000), (1e12, 2000)])
def test_seeking_stays_inside(to_s, time_s):
    assert HEAD.sought(to_s).time_s == time_s


@pytest.mark.parametrize(("speed", "kept"), [(0, 1), (-5, 1), (0.5, 1), (7, 7), (1e9, 1000)])
def test_speeds_have_bounds(speed, kept):
    assert HEAD.at_speed(speed, playing=True).speed == kept


def test_playing_on_at_the_end_begins_anew():
    at_end = HEAD.sought(2000)
    assert at_end.at_speed(1, playing=True).time_s == 1000
    assert at_end.at_speed(1, playing=False).time_s == 2000


@pytest.mark.parametrize(
    ("duration_s", "speed"), [(0, 1), (60, 1), (200, 2), (3600, 50), (12 * 3600, 500), (1e9, 1000)]
)
def test_a_speed_that_suits_the_length(duration_s, speed):
    assert speed_for(duration_s) == speed

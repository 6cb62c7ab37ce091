"""What is growth and what only looks like it, and when the ceiling would be hit."""

from __future__ import annotations

import math
import random

import pytest

from memdash.forecast.robust import surely_rise, theil_sen
from memdash.forecast.trend import LEVELS, Floor, Trend, climbs, envelope, rises, to_come

RANDOM = random.Random(5)
STEP_S = 0.5


def noise(size: float) -> float:
    return RANDOM.gauss(0, size)


def feed(curve, seconds: float, floor: Floor | None = None) -> Floor:
    floor = floor or Floor()
    for index in range(int(seconds / STEP_S)):
        value = curve(index * STEP_S)
        floor.add(index * STEP_S, index, value, value + 50)
    return floor


def asked(floor: Floor) -> list[Trend | None]:
    """As often as it takes until every window has had its turn."""
    return [floor.trend() for _ in range(LEVELS)]


HEALTHY = {
    "flat": lambda t: 100.0,
    "noise": lambda t: 100 + noise(3),
    "warm-up": lambda t: 100 * (1 - math.exp(-t / 20)),
    "a jump": lambda t: 100.0 if t < 150 else 180.0,
    "a cache that is full": lambda t: 100 + min(t, 60.0),
    "a saw of short teeth": lambda t: 100 + t % 20,
    "a saw of long teeth": lambda t: 100 + t % 125,
    "falling": lambda t: 300 - t / 10,
}


@pytest.mark.parametrize("curve", HEALTHY.values(), ids=HEALTHY.keys())
def test_no_growth_is_seen_where_there_is_none(curve):
    assert asked(feed(curve, 300)) == [None] * LEVELS


def test_a_saw_on_a_base_far_larger_than_its_teeth_is_one():
    floor = feed(lambda t: min(10 * t, 1000.0) + t % 300, 1150)
    assert asked(floor) == [None] * LEVELS  # 250 s into the fourth tooth


LEAKS = {
    "clean": (lambda t: 100 + 0.2 * t, 0.2, 50),
    "noisy": (lambda t: 100 + 0.2 * t + noise(5), 0.2, 70),
    "on a saw": (lambda t: 100 + 0.2 * t + t % 10, 0.2, 59),
    "after a warm-up": (lambda t: 100 * (1 - math.exp(-t / 10)) + 0.2 * t, 0.2, 50),
    "in stairs, once an epoch": (lambda t: 100 + 2 * (t // 10), 0.2, 51),
    "with evaluations": (lambda t: 100 + 0.2 * t + (400 if int(t) % 17 == 0 else 0), 0.2, 450),
}


@pytest.mark.parametrize(("curve", "slope", "spike"), LEAKS.values(), ids=LEAKS.keys())
def test_a_leak_is_seen_with_its_rate(curve, slope, spike):
    trend = feed(curve, 300).trend()
    assert trend is not None
    assert trend.line.slope == pytest.approx(slope, rel=0.15)
    assert trend.line.slope_low <= slope * 1.05
    assert trend.line.slope_high >= slope * 0.95
    assert trend.spike_bytes == pytest.approx(spike, rel=0.15)
    assert trend.rise_bytes / trend.steps == pytest.approx(slope * STEP_S, rel=0.3)


def test_a_peak_that_comes_rarely_is_waited_for():
    """Once the ceiling is too low for floor and peak together, the run still lives until the next peak."""
    often, rarely = feed(evaluated(10), 300).trend(), feed(evaluated(40), 300).trend()
    assert rarely.spike_bytes == pytest.approx(often.spike_bytes, rel=0.02)
    assert often.spike_every == pytest.approx(10, rel=0.3)
    assert rarely.spike_every == pytest.approx(40, rel=0.2)
    assert rarely.reach(500, 300)[2] > often.reach(500, 300)[2] + 25
    assert rarely.reach(500, 300)[0] == pytest.approx(often.reach(500, 300)[0], rel=0.05)


def evaluated(every_s: float):
    """One that takes five seconds: longer than the bucket of a window."""
    return lambda t: 100 + 0.2 * t + 100 * (t % every_s < 5)


def test_noise_is_no_growth_however_long_it_is_looked_at():
    """As of neighbours that come and go: sooner or later the lowest readings happen to rise."""
    floor, seen = Floor(), 0
    for index in range(6000):
        value = 300 + 60 * math.sin(index * 0.7) + noise(40)
        floor.add(index * STEP_S, index, value)
        seen += index % 4 == 0 and floor.trend() is not None
    assert seen <= 5


@pytest.mark.parametrize(
    ("curve", "gains"),
    [
        (lambda t: 100 * (1 - math.exp(-t / 40)), 100 * math.exp(-79 / 40)),
        (lambda t: 100 * (1 - math.exp(-t / 80)), 100 * math.exp(-79 / 80)),
        (lambda t: t, math.inf),
        (lambda t: t**2, math.inf),
    ],
)
def test_growth_that_slows_down_is_told_how_far_it_would_get(curve, gains):
    floor = [curve(float(t)) for t in range(81)]
    assert to_come(floor, noise=0.0) == pytest.approx(gains, rel=0.1)


def test_stairs_do_not_slow_down():
    stairs = [10.0 * (t // 12) for t in range(31)]
    assert to_come(stairs, noise=2.5) == math.inf


def test_growth_that_begins_late_is_seen_soon():
    floor = feed(lambda t: 100 + max(0.0, t - 3600) * 0.5, 3600 + 90)
    trend = floor.trend()
    assert trend is not None
    assert trend.line.slope == pytest.approx(0.5, rel=0.1)


def test_how_far_a_floor_has_risen_in_a_time():
    floor = feed(lambda t: 100 + 0.5 * t + (20 if int(t) % 7 == 0 else 0), 1000)
    assert floor.rise_over(100.0) == pytest.approx(50, abs=6)
    assert floor.rise_over(600.0) == pytest.approx(300, abs=20)
    assert floor.rise_over(9000.0) == pytest.approx(500, abs=40)
    assert Floor().rise_over(10.0) == 0


def test_growth_that_has_stopped_is_forgotten():
    assert feed(lambda t: 100 + min(t, 200.0) * 0.5, 260).trend() is None


def test_the_ceiling_is_hit_when_floor_and_spike_reach_it():
    trend = feed(lambda t: 100 + 0.2 * t, 300).trend()
    early, likely, late = trend.reach(250.0, 300.0)  # floor 160 + spike 50, 40 left at 0.2 a second
    assert likely == pytest.approx(200, rel=0.03)
    assert early <= likely <= late
    assert trend.reach(200.0, 300.0)[0] == 0.0  # over it already


def test_the_memory_of_a_long_run_is_bounded():
    floor = feed(lambda t: 100.0, 3600)
    size = sum(len(level) for level in floor._levels)
    feed(lambda t: 100 + noise(10), 20_000, floor)
    assert sum(len(level) for level in floor._levels) <= size + 14 * 32
    assert len(floor._teeth._largest) <= 16
    assert len(floor._teeth._marks) <= 65


@pytest.mark.parametrize(
    ("values", "floor"),
    [
        ([3, 1, 4, 1, 5], [1, 1, 1, 1, 1]),  # the tooth that rises now is no longer than the one before
        ([3, 1, 4, 1, 5, 9], [1, 1, 1, 1, 5, 9]),  # and now it is
        ([3, 1, 4, 5, 6], [1, 1, 4, 5, 6]),  # one fall is no saw
        ([1, 2, 3], [1, 2, 3]),
    ],
)
def test_the_envelope_is_what_was_never_gone_below_again(values, floor):
    assert envelope(values) == floor


@pytest.mark.parametrize(
    ("floor", "rising"),
    [
        ([float(n) for n in range(24)], True),
        ([0.0] * 23 + [9.0], False),
        ([0.0] * 12 + [9.0] * 12, False),
        ([min(n, 12.0) for n in range(24)], False),
        ([0.0] * 24, False),
    ],
)
def test_growth_must_go_on_through_the_window(floor, rising):
    assert rises(floor) is rising


@pytest.mark.parametrize(
    ("floor", "climbing"),
    [
        ([5.0 * (n // 5) for n in range(22)], True),
        ([5.0 * (n // 5) + 0.02 * n for n in range(22)], True),
        ([5.0 * (n // 5) for n in range(18)], False),  # three are a beginning, and may be the end
        ([5.0 * (n // 5) for n in range(21)] + [20.0] * 8, False),  # the next one is overdue
        ([0.0] * 8 + [5.0 * (n // 5) for n in range(21)], False),
        ([1.0 * (n // 5) ** 2 for n in range(22)], False),
        ([0.0, 5, 5, 10, 10, 10, 10, 10, 15, 15, 20, 20], False),
        ([float(n) for n in range(22)], False),
        ([0.0] * 22, False),
    ],
)
def test_stairs_that_are_alike_go_on(floor, climbing):
    assert climbs(floor) is climbing


def test_the_slopes_interval_holds_four_times_in_five():
    held = 0
    for _ in range(200):
        line = theil_sen(range(30), [n * 2 + noise(10) for n in range(30)])
        held += line.slope_low <= 2 <= line.slope_high
    assert 140 <= held <= 185


def test_neighbours_that_are_alike_make_the_interval_wider():
    wander = [0.0]
    for _ in range(29):
        wander.append(0.9 * wander[-1] + noise(3))
    shuffled = RANDOM.sample(wander, 30)
    walk = theil_sen(range(30), [n + w for n, w in enumerate(wander)])
    mixed = theil_sen(range(30), [n + w for n, w in enumerate(shuffled)])
    assert walk.slope_high - walk.slope_low > mixed.slope_high - mixed.slope_low


@pytest.mark.parametrize(
    ("curve", "rising"),
    [
        (lambda n: n * 2.0, True),
        (lambda n: n**3, True),  # though each miss of a line is like the one before
        (lambda n: n + noise(3), True),
        (lambda n: noise(3), False),
        (lambda n: 50.0 - n, False),
        (lambda n: 5.0, False),
    ],
)
def test_what_rises_rises_more_often_than_chance_would_have_it(curve, rising):
    xs, ys = list(range(30)), [curve(n) for n in range(30)]
    assert surely_rise(xs, ys, theil_sen(xs, ys)) is rising


def test_two_points_have_no_interval():
    with pytest.raises(ValueError, match="three points"):
        theil_sen([0, 1], [0, 1])


def test_what_grows_with_every_step_is_fitted_over_steps():
    floor, time_s = Floor(over_steps=True), 0.0
    for step in range(400):
        time_s += 0.1 if step < 200 else 0.4  # others use the processor, too
        floor.add(time_s, step, 100 + step)
    trend = floor.trend()
    assert trend is not None
    assert trend.line.slope == pytest.approx(1.0, rel=0.02)
    assert trend.reach(600, 399)[1] == pytest.approx(101, rel=0.05)


def test_the_fastest_and_the_slowest_part_are_kept():
    floor, time_s = Floor(over_steps=True), 0.0
    for step in range(600):
        time_s += 0.4 if step % 200 < 60 else 0.2
        floor.add(time_s, step, 100 + step)
    fastest, slowest = floor.trend().paces_s
    assert fastest == pytest.approx(0.2, rel=0.15)
    assert slowest == pytest.approx(0.4, rel=0.15)

"""What a plot shows, in dots, and that plotext draws exactly those dots."""

from __future__ import annotations

import pytest

from memdash.tui import plotting
from memdash.tui.palette import CAPACITY
from memdash.tui.plots import Line, Plot, canvas_columns, fits, loss_plot, memory_plot, rate_plot
from memdash.tui.series import Track, Window
from memdash.units import MIB

SIZE = (46, 11)
COUNT = canvas_columns(SIZE[0])
VIEW = Window(0, 1.0, COUNT, 0.0, COUNT)


def track(*values: float) -> Track:
    """One value a second."""
    made = Track()
    for second, value in enumerate(values):
        made.add(second + 0.5, value)
    return made


def memory(values: Track, capacity: float | None = 512 * MIB, *, zoomed: bool = False) -> Plot:
    """One series against a capacity."""
    return memory_plot(SIZE, VIEW, [Line(values, "#00ff00")], capacity, zoomed=zoomed)


def dots(plot: Plot) -> set[tuple[int, int]]:
    """Every dot that was really drawn, counted from the lower left of the canvas."""
    lit = set()
    offsets = ((0, 3), (0, 2), (0, 1), (1, 3), (1, 2), (1, 1), (0, 0), (1, 0))
    strips = plotting.paint(plot)
    for row, strip in enumerate(strips[:-1]):
        for column, character in enumerate(strip.text[6:]):
            for bit, (across, up) in enumerate(offsets):
                if 0x2800 <= ord(character) <= 0x28FF and (ord(character) - 0x2800) >> bit & 1:
                    lit.add((column * 2 + across, (plot.height - 2 - row) * 4 + up))
    return lit


def test_plotext_draws_the_dots_that_were_meant() -> None:
    plot = memory(track(*(second * 6 * MIB for second in range(COUNT))))
    assert set(plot.curves[0].points) <= dots(plot)


@pytest.mark.parametrize(
    ("mib", "height"),
    [(0, 0), (128, 9), (256, 18), (511, 35), (512, 35), (600, 35)],
)
def test_heights_are_to_scale_below_the_capacity_line(mib: int, height: int) -> None:
    capacity = 512 * MIB
    plot = memory_plot(SIZE, VIEW, [Line(track(min(mib, 512) * MIB), "#00ff00")], capacity, zoomed=False)
    assert plot.curves[0].points == ((0, height),)


def test_the_capacity_line_has_the_top_row_to_itself() -> None:
    plot = memory(track(*[512 * MIB] * COUNT))
    assert plot.capped
    top = plotting.paint(plot)[0]
    assert top.text == " 512M┤" + "▁" * (SIZE[0] - 6)
    assert {segment.style.color.name for segment in top if "▁" in segment.text} == {CAPACITY}


def test_without_a_capacity_there_is_no_line() -> None:
    plot = memory(track(1.0, 2.0), None)
    assert not plot.capped
    assert "▁" not in "".join(strip.text for strip in plotting.paint(plot))


def test_zoomed_the_capacity_is_off_scale_and_the_detail_shows() -> None:
    plot = memory(track(100 * MIB, 101 * MIB), zoomed=True)
    assert not plot.capped
    heights = [y for _, y in plot.curves[0].points]
    assert heights[1] - heights[0] > 20


def test_ticks_stand_on_even_rows() -> None:
    rows = [row for row, _ in memory(track(1.0)).y_ticks]
    assert rows == [0, 2, 4, 6, 9]
    assert {row % 2 for row in rows[:4]} == {0}


def test_a_spike_within_a_column_reaches_the_picture() -> None:
    spiky = track(*[64 * MIB] * COUNT)
    spiky.add(40.7, 500 * MIB)
    spiky.add(40.9, 64 * MIB)
    assert max(memory(spiky).curves[0].points, key=lambda point: point[1]) == (40, 35)


def test_equal_pictures_compare_equal_so_that_they_are_not_drawn_again() -> None:
    values = track(*[100 * MIB] * 20)
    before = memory(values)
    values.add(19.9, 100 * MIB + 1)
    assert memory(values) == before
    values.add(19.9, 200 * MIB)
    assert memory(values) != before


def test_the_area_lies_under_its_line() -> None:
    plot = memory(track(*[256 * MIB] * COUNT))
    assert plot.area is not None
    assert set(plot.area.heights) == {5}  # dot 18 is in the fifth cell from below
    shades = [strip._segments[-1].style.bgcolor.name for strip in plotting.paint(plot)[:-1]]
    assert [shade == plot.area.colour for shade in shades] == [False] * 5 + [True] * 5


def test_the_loss_is_smoothed_and_raw_dots_give_way_to_the_line() -> None:
    noisy = track(*(5 - second / 30 + (second % 2) for second in range(COUNT)))
    plot = loss_plot(SIZE, VIEW, noisy, "#111111", "#222222")
    raw, smooth = plot.curves
    assert not raw.joined
    assert len(smooth.points) == COUNT
    jumps = [abs(y1 - y0) for (_, y0), (_, y1) in zip(smooth.points[5:], smooth.points[6:], strict=False)]
    assert max(jumps) <= 2
    cells = {(x // 2, y // 4) for x, y in smooth.points}
    assert not cells & {(x // 2, y // 4) for x, y in raw.points}


def test_a_column_that_still_fills_is_left_out_of_loss_and_rate() -> None:
    values = track(*range(1, COUNT))
    filling = Window(0, 2.0, COUNT, 0.0, settled=10)
    assert max(x for curve in rate_plot(SIZE, filling, values, 16, "#111111").curves for x, _ in curve.points) == 9


@pytest.mark.parametrize(
    "plot", [loss_plot(SIZE, VIEW, Track(), "#111111", "#222222"), rate_plot(SIZE, VIEW, Track(), 16, "#111111")]
)
def test_nothing_recorded(plot: Plot) -> None:
    assert plot.curves == ()


@pytest.mark.parametrize("size", [(22, 3), (30, 4), (120, 40), (200, 60), (23, 50)])
def test_every_size_that_fits_can_be_painted(size: tuple[int, int]) -> None:
    assert fits(*size)
    count = canvas_columns(size[0])
    view = Window(0, 1.0, count, 0.0, count)
    plot = memory_plot(size, view, [Line(track(*range(50)), "#00ff00")], 100.0, zoomed=False)
    strips = plotting.paint(plot)
    assert [strip.cell_length for strip in strips] == [size[0]] * size[1]


@pytest.mark.parametrize("size", [(0, 0), (1, 1), (10, 2), (13, 40), (200, 2)])
def test_sizes_that_do_not_fit(size: tuple[int, int]) -> None:
    assert not fits(*size)

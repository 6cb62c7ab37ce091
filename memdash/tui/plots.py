"""What each plot shows, quantised to the dots of its canvas so that equal pictures compare equal (pure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memdash.buckets import Bucket
from memdash.tui.axes import Axis, byte_axis, number_axis, time_ticks
from memdash.tui.palette import FORECAST, shaded
from memdash.tui.series import Track, Window

DOTS_X, DOTS_Y = 2, 4  # of a braille cell
LABEL_WIDTH = 5
MIN_CANVAS = (8, 2)
AREA_SHADE = 0.2
BRIEF_S = 1.0  # a column that is over so soon is drawn while it fills
SMOOTH_PART = 12  # the smoothed curve looks back over this part of the canvas

Columns = Sequence[Bucket | None]
Points = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Curve:
    """Dots, counted from the lower left, joined by a line or not."""

    colour: str
    points: Points
    joined: bool = True


@dataclass(frozen=True)
class Area:
    """A shaded background: how many whole cells of each column of cells, from below."""

    colour: str
    heights: tuple[int, ...]


@dataclass(frozen=True)
class Plot:
    """All that a picture depends on."""

    width: int
    height: int
    curves: tuple[Curve, ...] = ()
    area: Area | None = None
    y_ticks: tuple[tuple[int, str], ...] = ()
    """Row of cells from below, and label."""
    x_ticks: tuple[tuple[int, str], ...] = ()
    """Column of dots, and label."""
    capped: bool = False
    """Whether the capacity line runs along the lower edge of the top row, which nothing else uses."""

    @property
    def dots(self) -> tuple[int, int]:
        """Size of the canvas in dots."""
        return canvas_columns(self.width), canvas_rows(self.height) * DOTS_Y


def canvas_columns(width: int) -> int:
    """Dots across in a plot of `width` cells."""
    return max(0, width - LABEL_WIDTH - 1) * DOTS_X


def canvas_rows(height: int) -> int:
    """Cells of canvas in a plot of `height` cells; one row holds the time axis."""
    return max(0, height - 1)


def fits(width: int, height: int) -> bool:
    """Whether anything can be drawn."""
    return canvas_columns(width) >= MIN_CANVAS[0] * DOTS_X and canvas_rows(height) >= MIN_CANVAS[1]


@dataclass(frozen=True)
class Line:
    """One series as asked for; the first of a plot is shaded below."""

    track: Track
    colour: str


@dataclass(frozen=True)
class Ahead:
    """What a forecast says of the time to the right of now."""

    now_bytes: float = 0.0
    """Where a trend stands."""
    rates: tuple[float, ...] = ()
    """Bytes a second at which it goes on: low, likely, high; empty = there is no trend."""
    misfit: tuple[float, float] | None = None
    """Seconds from now, and bytes, of a step that will not fit."""


def memory_plot(
    size: tuple[int, int],
    view: Window,
    lines: Sequence[Line],
    capacity: float | None,
    *,
    zoomed: bool,
    ahead: Ahead | None = None,
) -> Plot:
    """The highest of each column against the capacity, from zero; zoomed, from the lowest to the highest shown.

    With a forecast, `view` leaves columns free on the right for it.
    """
    columns = [line.track.columns(view) for line in lines]
    low, high = _range(columns)
    capped = capacity is not None and not zoomed
    rows = canvas_rows(size[1]) - capped
    if zoomed:
        axis = byte_axis(low, high, rows)
    else:
        axis = byte_axis(0, max(high, capacity or 0, 1), rows, capacity)
    heights = [_tops(data, axis, rows) for data in columns]
    curves = [Curve(line.colour, points) for line, points in zip(lines, heights, strict=True)]
    area = Area(shaded(lines[0].colour, AREA_SHADE), _area(heights[0], view.count))
    if ahead is not None:
        curves += _future(ahead, view, canvas_columns(size[0]), axis, rows, capacity)
    return _plot(size, view, axis, rows, curves, area, capped=capped)


def _future(ahead: Ahead, view: Window, columns: int, axis: Axis, rows: int, capacity: float | None) -> Iterator[Curve]:
    """The fan of a trend up to the capacity, and an upright line where a step does not fit, at the edge if beyond it."""
    now = view.settled
    ceiling = capacity if capacity is not None else axis.high
    for rate in ahead.rates:
        course = [(x, ahead.now_bytes + rate * (x - now) * view.width_s) for x in range(now + 1, columns)]
        within = tuple((x, _dot(value, axis, rows)) for x, value in course if value <= ceiling)
        yield Curve(FORECAST, within[:: 1 if rate == ahead.rates[1] else DOTS_X], joined=False)
    if ahead.misfit is not None:
        in_s, need = ahead.misfit
        x = min(columns - 1, now + max(1, round(in_s / view.width_s)))
        yield Curve(FORECAST, tuple((x, y) for y in range(_dot(min(need, ceiling), axis, rows) + 1)), joined=False)


def loss_plot(size: tuple[int, int], view: Window, track: Track, raw: str, smooth: str) -> Plot:
    """The lowest and highest loss of each column as dots, and the smoothed course as a line."""
    columns = _settled(track, view)
    rows = canvas_rows(size[1])
    axis = number_axis(*_range([columns]), rows)
    course = _tops(smoothed(columns, view.count), axis, rows)
    # two colours cannot share a cell: where the line runs, the dots give way
    taken = {(x // DOTS_X, y // DOTS_Y) for x, y in course}
    dots = tuple(dot for dot in _ends(columns, axis, rows) if (dot[0] // DOTS_X, dot[1] // DOTS_Y) not in taken)
    return _plot(size, view, axis, rows, [Curve(raw, dots, joined=False), Curve(smooth, course)])


def rate_plot(size: tuple[int, int], view: Window, step_times: Track, examples: int, colour: str) -> Plot:
    """Examples a second, smoothed, from zero; each step trains the same number of them."""
    rates = [bucket and _rate(bucket, examples) for bucket in _settled(step_times, view)]
    columns = smoothed(rates, view.count)
    rows = canvas_rows(size[1])
    axis = number_axis(0.0, _range([columns])[1], rows)
    course = _tops(columns, axis, rows)
    area = Area(shaded(colour, AREA_SHADE), _area(course, view.count))
    return _plot(size, view, axis, rows, [Curve(colour, course)], area)


def _rate(step_time: Bucket, examples: int) -> Bucket:
    """The longest step is the lowest rate."""
    return Bucket(examples / step_time.maximum, examples / step_time.minimum, examples / step_time.last)


def _settled(track: Track, view: Window) -> Columns:
    """Without the column that is still filling, for plots that nobody has to react to: they change once a column."""
    columns = track.columns(view)
    return columns if view.width_s <= BRIEF_S else columns[: view.settled]


def smoothed(columns: Columns, count: int) -> list[Bucket | None]:
    """A moving average over a part of `count` columns, there and back again so that it does not lag behind."""
    middles = [(bucket.minimum + bucket.maximum) / 2 for bucket in columns if bucket is not None]
    weight = 2 / (max(SMOOTH_PART, count) / SMOOTH_PART + 1)
    means = iter(_averaged(_averaged(middles, weight)[::-1], weight)[::-1])
    return [None if bucket is None else Bucket(mean := next(means), mean, mean) for bucket in columns]


def _averaged(values: Sequence[float], weight: float) -> list[float]:
    mean, result = 0.0, []
    for seen, value in enumerate(values, 1):
        mean += max(weight, 1 / seen) * (value - mean)
        result.append(mean)
    return result


def _plot(
    size: tuple[int, int],
    view: Window,
    axis: Axis,
    rows: int,
    curves: Sequence[Curve],
    area: Area | None = None,
    *,
    capped: bool = False,
) -> Plot:
    top = canvas_rows(size[1]) - 1
    y_ticks = tuple((min(top, int(_height(value, axis, rows)) // DOTS_Y), label) for value, label in axis.ticks)
    times = time_ticks(view.elapsed_s(0), view.elapsed_s(view.count), view.count // DOTS_X)
    x_ticks = tuple((round((time_s - view.elapsed_s(0)) / view.width_s), label) for time_s, label in times)
    x_ticks = tuple(tick for tick in x_ticks if 0 <= tick[0] < view.count)
    return Plot(*size, tuple(curve for curve in curves if curve.points), area, y_ticks, x_ticks, capped)


def _tops(columns: Columns, axis: Axis, rows: int) -> Points:
    """The highest dot of each column: no spike is lost."""
    return tuple((x, _dot(bucket.maximum, axis, rows)) for x, bucket in enumerate(columns) if bucket is not None)


def _ends(columns: Columns, axis: Axis, rows: int) -> Points:
    """The lowest and the highest dot of each column."""
    return tuple(
        (x, _dot(value, axis, rows))
        for x, bucket in enumerate(columns)
        if bucket is not None
        for value in {bucket.minimum, bucket.maximum}
    )


def _area(points: Points, count: int) -> tuple[int, ...]:
    """Cells up to and with the one that a line runs through; it is straight between its points."""
    lowest: dict[int, float] = {}
    for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
        for x in range(x0, x1 + 1):
            y = y0 + (y1 - y0) * (x - x0) / (x1 - x0)
            lowest[x // DOTS_X] = min(y, lowest.get(x // DOTS_X, y))
    return tuple(int(lowest.get(cell, -DOTS_Y)) // DOTS_Y + 1 for cell in range(count // DOTS_X))


def _dot(value: float, axis: Axis, rows: int) -> int:
    return min(rows * DOTS_Y - 1, int(_height(value, axis, rows)))


def _height(value: float, axis: Axis, rows: int) -> float:
    """In dots from the lower edge, as the capacity line is; what lies beyond an end is shown at that end."""
    part = (value - axis.low) / (axis.high - axis.low)
    return min(1.0, max(0.0, part)) * rows * DOTS_Y + 1e-6


def _range(all_columns: Sequence[Columns]) -> tuple[float, float]:
    buckets = [bucket for columns in all_columns for bucket in columns if bucket is not None]
    if not buckets:
        return 0.0, 0.0
    return min(bucket.minimum for bucket in buckets), max(bucket.maximum for bucket in buckets)

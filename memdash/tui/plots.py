"""What each plot shows, quantised to the dots of its canvas so that equal pictures compare equal (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memdash.buckets import Bucket
from memdash.tui.axes import Axis, byte_axis, number_axis, time_ticks
from memdash.tui.palette import CAPACITY, shaded
from memdash.tui.series import Track, Window

DOTS_X, DOTS_Y = 2, 4  # of a braille cell
LABEL_WIDTH = 5
MIN_CANVAS = (8, 2)
FILL_SHADE = 0.42
SMOOTH_PART = 12  # the smoothed curve looks back over this part of the canvas

Columns = Sequence[Bucket | None]


@dataclass(frozen=True)
class Curve:
    """A line through dots, counted from the lower left."""

    colour: str
    points: tuple[tuple[int, int], ...]
    filled: bool = False


@dataclass(frozen=True)
class Plot:
    """All that a picture depends on."""

    width: int
    height: int
    curves: tuple[Curve, ...] = ()
    y_ticks: tuple[tuple[int, str], ...] = ()
    x_ticks: tuple[tuple[int, str], ...] = ()
    limit: int | None = None
    """Height of the capacity line in dots."""
    limit_colour: str = CAPACITY

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
    """One series as asked for."""

    track: Track
    colour: str
    filled: bool = False


def memory_plot(
    size: tuple[int, int], view: Window, lines: Sequence[Line], capacity: float | None, *, zoomed: bool
) -> tuple[Plot, Axis]:
    """Series of bytes against their capacity, from zero; zoomed, from the lowest to the highest value shown."""
    columns = [line.track.columns(view) for line in lines]
    low, high = _range(columns)
    rows = canvas_rows(size[1])
    if zoomed and high > 0:
        axis = byte_axis(low, high, rows)
    else:
        top = max(high, capacity or 0, 1)
        axis = byte_axis(0, top, rows, capacity) if capacity else byte_axis(0, top, rows)
    curves: list[Curve] = []
    for line, data in zip(lines, columns, strict=True):
        if line.filled:
            curves.append(Curve(shaded(line.colour, FILL_SHADE), _points(data, axis, rows, top_only=True), filled=True))
    curves += (Curve(line.colour, _points(data, axis, rows)) for line, data in zip(lines, columns, strict=True))
    limit = _dot(capacity, axis, rows) if capacity and axis.low <= capacity <= axis.high else None
    return _plot(size, view, axis, curves, limit), axis


def loss_plot(size: tuple[int, int], view: Window, track: Track, raw: str, smooth: str) -> Plot:
    """The loss of every step, and its smoothed course."""
    columns = track.columns(view)
    rows = canvas_rows(size[1])
    axis = number_axis(*_range([columns]), rows)
    curves = [
        Curve(raw, _points(columns, axis, rows)),
        Curve(smooth, _points(smoothed(columns), axis, rows)),
    ]
    return _plot(size, view, axis, curves)


def rate_plot(size: tuple[int, int], view: Window, track: Track, colour: str) -> Plot:
    """A rate, from zero."""
    columns = track.columns(view)
    rows = canvas_rows(size[1])
    axis = number_axis(0.0, _range([columns])[1], rows)
    curves = [
        Curve(shaded(colour, FILL_SHADE), _points(smoothed(columns), axis, rows, top_only=True), filled=True),
        Curve(colour, _points(smoothed(columns), axis, rows)),
    ]
    return _plot(size, view, axis, curves)


def smoothed(columns: Columns) -> list[Bucket | None]:
    """A moving average over what the columns hold, shorter at the start."""
    weight = 2 / (len(columns) / SMOOTH_PART + 1)
    mean: float | None = None
    result: list[Bucket | None] = []
    for bucket in columns:
        if bucket is None:
            result.append(None)
            continue
        middle = (bucket.minimum + bucket.maximum) / 2
        mean = middle if mean is None else mean + min(1.0, weight) * (middle - mean)
        result.append(Bucket(mean, mean, mean))
    return result


def _plot(size: tuple[int, int], view: Window, axis: Axis, curves: Sequence[Curve], limit: int | None = None) -> Plot:
    rows = canvas_rows(size[1])
    y_ticks = tuple((_dot(value, axis, rows), label) for value, label in axis.ticks)
    times = time_ticks(view.elapsed_s(0), view.elapsed_s(view.count), view.count // DOTS_X)
    x_ticks = tuple((round((time_s - view.elapsed_s(0)) / view.width_s), label) for time_s, label in times)
    return Plot(*size, tuple(curve for curve in curves if curve.points), y_ticks, x_ticks, limit)


def _points(columns: Columns, axis: Axis, rows: int, *, top_only: bool = False) -> tuple[tuple[int, int], ...]:
    """One dot a column, two where a column holds more than one height; both ends of a spike stay."""
    points: list[tuple[int, int]] = []
    for x, bucket in enumerate(columns):
        if bucket is None:
            continue
        low, high, last = (_dot(value, axis, rows) for value in (bucket.minimum, bucket.maximum, bucket.last))
        heights = [high] if top_only or low == high else [high, low] if last - low < high - last else [low, high]
        points += ((x, height) for height in heights)
    return tuple(points)


def _dot(value: float, axis: Axis, rows: int) -> int:
    top = rows * DOTS_Y - 1
    return min(top, max(0, round((value - axis.low) / (axis.high - axis.low) * top)))


def _range(all_columns: Sequence[Columns]) -> tuple[float, float]:
    buckets = [bucket for columns in all_columns for bucket in columns if bucket is not None]
    if not buckets:
        return 0.0, 0.0
    return min(bucket.minimum for bucket in buckets), max(bucket.maximum for bucket in buckets)

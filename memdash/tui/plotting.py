"""Draws a Plot with plotext: the only file that imports it, and only when `Painter.load` is called.

plotext costs more to import than all the rest of a first frame, so `load` runs in a thread after it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from memdash.tui.palette import BACKGROUND, CAPACITY, DIM, RULE
from memdash.tui.plots import DOTS_Y, LABEL_WIDTH, Plot, canvas_rows

_plotext: Any = None
_SGR = re.compile(r"\x1b\[([0-9;]*)m")


def load() -> None:
    """Import plotext. Takes about a quarter of a second; call it in a thread."""
    global _plotext
    if _plotext is None:
        import plotext

        plotext.terminal.limit(False, False)  # otherwise a figure is cut to the terminal's own size
        _plotext = plotext


def loaded() -> bool:
    """Whether `paint` can be called."""
    return _plotext is not None


def paint(plot: Plot) -> list[Strip]:
    """The picture, one Strip a row. A new figure each time: figures shared between widgets get mixed up."""
    figure = type(_plotext.figure)(_plotext.terminal)
    figure.plot_size(plot.width, plot.height)
    figure.canvas(_rgb(BACKGROUND))
    _paint_axes(figure, plot)
    for curve in plot.curves:
        xs, ys = zip(*curve.points, strict=True)
        signal = figure.signal(list(xs), list(ys), marker=_plotext.marker("braille", _pixel(curve.colour)))
        figure.draw(signal.lines(curve.joined))
    rows = [_cells(line, plot.width) for line in figure.build().string().rstrip("\n").split("\n")]
    if plot.capped:
        rows[0][LABEL_WIDTH + 1 :] = [("▁", CAPACITY)] * (plot.width - LABEL_WIDTH - 1)
    return [_strip(cells, *_shades(plot, y)) for y, cells in enumerate(rows)]


def _paint_axes(figure: Any, plot: Plot) -> None:
    across, up = plot.dots
    figure.axes(False, axis="x")
    figure.axes(False, axis="y", side="right")
    figure.axes(True, axis="y", side="left", pixel=_pixel(RULE))
    y, x = figure.ruler("y"), figure.ruler("x")
    for ruler in (x, y):
        ruler.alignment(lim="edge")  # one unit is one dot; the default squeezes the ends by half a cell
    y.lim(0, up - 1)
    labels = [label.rjust(LABEL_WIDTH)[:LABEL_WIDTH] for _, label in plot.y_ticks]
    y.ticks([row * DOTS_Y + (DOTS_Y - 1) / 2 for row, _ in plot.y_ticks], labels)
    y.pixel(_pixel(DIM))
    x.lim(0, across - 1)
    x.ticks([at for at, _ in plot.x_ticks], [label for _, label in plot.x_ticks])
    x.pixel(_pixel(DIM))


def _pixel(colour: str) -> Any:
    # without a background plotext paints a white one
    return _plotext.pixel(_rgb(colour), _rgb(BACKGROUND))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _cells(line: str, width: int) -> list[tuple[str, str]]:
    """Character and colour of each cell; ten times cheaper than Text.from_ansi, which a plot a tick would feel."""
    cells: list[tuple[str, str]] = []
    colour, at = DIM, 0
    for escape in _SGR.finditer(line):
        cells += ((character, colour) for character in line[at : escape.start()])
        at = escape.end()
        if escape[1].startswith("38;2;"):
            colour = "#{:02x}{:02x}{:02x}".format(*map(int, escape[1].split(";")[2:5]))
    cells += ((character, colour) for character in line[at:])
    return (cells + [(" ", DIM)] * (width - len(cells)))[:width]


def _shades(plot: Plot, y: int) -> tuple[str, tuple[bool, ...]]:
    """The area's colour, and which cells of row `y`, counted from above, lie in it."""
    if plot.area is None:
        return BACKGROUND, ()
    from_below = canvas_rows(plot.height) - 1 - y
    return plot.area.colour, tuple(0 <= from_below < height for height in plot.area.heights)


def _strip(cells: list[tuple[str, str]], shade: str, shaded: tuple[bool, ...]) -> Strip:
    """Neighbours of one style in one segment."""
    segments, run, before = [], "", ("", "")
    backgrounds = [BACKGROUND] * (LABEL_WIDTH + 1) + [shade if inside else BACKGROUND for inside in shaded]
    backgrounds += [BACKGROUND] * (len(cells) - len(backgrounds))
    for (character, colour), background in zip(cells, backgrounds, strict=False):
        style = (colour if character != " " else before[0], background)
        if style != before and run:
            segments.append(Segment(run, _style(*before)))
            run = ""
        run, before = run + character, style
    return Strip([*segments, Segment(run, _style(*before))], len(cells))


@lru_cache(maxsize=256)
def _style(colour: str, background: str) -> Style:
    return Style(color=colour or None, bgcolor=background)

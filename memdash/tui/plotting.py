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

from memdash.tui.palette import BACKGROUND, DIM, RULE
from memdash.tui.plots import LABEL_WIDTH, Plot

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
    if plot.limit is not None:
        figure.line(plot.limit, pixel=_pixel(plot.limit_colour), style="heavy")
    for curve in plot.curves:
        xs, ys = zip(*curve.points, strict=True)
        signal = figure.signal(list(xs), list(ys), marker=_plotext.marker("braille", _pixel(curve.colour)))
        signal.lines()
        if curve.filled:
            signal.fillx()
        figure.draw(signal)
    return _strips(figure.build().string(), plot.width)


def _paint_axes(figure: Any, plot: Plot) -> None:
    across, up = plot.dots
    figure.axes(False, axis="x")
    figure.axes(False, axis="y", side="right")
    figure.axes(True, axis="y", side="left", pixel=_pixel(RULE))
    y, x = figure.ruler("y"), figure.ruler("x")
    y.lim(0, up - 1)
    y.ticks([at for at, _ in plot.y_ticks], [label.rjust(LABEL_WIDTH)[:LABEL_WIDTH] for _, label in plot.y_ticks])
    y.pixel(_pixel(DIM))
    x.lim(0, across - 1)
    x.ticks([at for at, _ in plot.x_ticks], [label for _, label in plot.x_ticks])
    x.pixel(_pixel(DIM))


def _pixel(colour: str) -> Any:
    # without a background plotext paints a white one
    return _plotext.pixel(_rgb(colour), _rgb(BACKGROUND))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _strips(text: str, width: int) -> list[Strip]:
    """Escape sequences to Strips: ten times cheaper than Text.from_ansi, which a plot a tick would feel."""
    strips = []
    for line in text.rstrip("\n").split("\n"):
        segments, style, at = [], _style(""), 0
        codes = ""
        for escape in _SGR.finditer(line):
            if escape.start() > at:
                segments.append(Segment(line[at : escape.start()], style))
            codes = "" if escape[1] in ("", "0") else f"{codes};{escape[1]}"
            style, at = _style(codes), escape.end()
        if at < len(line):
            segments.append(Segment(line[at:], style))
        strips.append(Strip(segments).adjust_cell_length(width, _style("")).simplify())
    return strips


@lru_cache(maxsize=256)
def _style(codes: str) -> Style:
    colour = re.search(r"38;2;(\d+);(\d+);(\d+)", codes)
    foreground = "#{:02x}{:02x}{:02x}".format(*map(int, colour.groups())) if colour else DIM
    return Style(color=foreground, bgcolor=BACKGROUND)

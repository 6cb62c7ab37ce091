"""A pane of text lines that follows its end until someone scrolls up; lays out only what changed."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from memdash.tui.palette import BACKGROUND, TEXT

if TYPE_CHECKING:
    from textual import events

MIN_WIDTH = 4


@dataclass(frozen=True)
class TextLine:
    """One logical line; what does not fit is continued under `text`, not under `prefix`."""

    text: str
    colour: str = TEXT
    prefix: tuple[tuple[str, str], ...] = ()
    """Text and colour of what stands before it."""


class LinePane(ScrollView):
    """Lines of text, wrapped to the width."""

    # the gutter is kept free: a scrollbar that appears later would lie on the last column of what is wrapped already
    DEFAULT_CSS = "LinePane { height: 1fr; scrollbar-size: 1 1; scrollbar-gutter: stable; overflow-x: hidden; }"

    def __init__(self, title: str, **kwargs: str) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.border_title = f" {title} "
        self._follows = True
        self._lines: list[TextLine] = []
        self._strips: list[Strip] = []
        self._starts: list[int] = []
        self._wrapped_at = 0

    @property
    def texts(self) -> list[str]:
        """The lines as they were shown."""
        return ["".join(text for text, _ in line.prefix) + line.text for line in self._lines]

    def show(self, lines: Sequence[TextLine], changed_from: int = 0, *, follow: bool | None = None) -> None:
        """Show these lines, of which those before `changed_from` are the same as before."""
        self._lines[changed_from:] = lines[changed_from:]
        self._follows = self._follows if follow is None else follow
        follows = self._follows
        self._lay_out(changed_from)
        if follows:
            # by hand: `scroll_end` does nothing before the scrollbar has been laid out
            self.set_reactive(LinePane.scroll_target_y, float(self.max_scroll_y))
            self.scroll_y = self.max_scroll_y
            self._follows = True
        self.refresh()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """Whoever scrolls up stays there; whoever scrolls back to the end follows it again."""
        super().watch_scroll_y(old_value, new_value)
        self._follows = new_value >= self.max_scroll_y

    def render_line(self, y: int) -> Strip:
        """One row of the screen."""
        row = y + self.scroll_offset.y
        width = self.scrollable_content_region.width
        strip = self._strips[row] if row < len(self._strips) else Strip.blank(width, Style(bgcolor=BACKGROUND))
        return strip.adjust_cell_length(width, Style(bgcolor=BACKGROUND))

    def on_resize(self, event: events.Resize) -> None:
        """Wrap anew when the width is another."""
        if self.scrollable_content_region.width != self._wrapped_at:
            self.show(self._lines)

    def _lay_out(self, changed_from: int) -> None:
        width = max(MIN_WIDTH, self.scrollable_content_region.width)
        if width != self._wrapped_at or changed_from >= len(self._starts):
            changed_from = 0 if width != self._wrapped_at else len(self._starts)
        self._wrapped_at = width
        del self._strips[self._starts[changed_from] if changed_from < len(self._starts) else len(self._strips) :]
        del self._starts[changed_from:]
        for line in self._lines[changed_from:]:
            self._starts.append(len(self._strips))
            self._strips += _wrapped(line, width)
        self.virtual_size = Size(width, len(self._strips))


def _wrapped(line: TextLine, width: int) -> list[Strip]:
    indent = sum(cell_len(text) for text, _ in line.prefix)
    room = width - indent
    prefix = [Segment(text, _style(colour)) for text, colour in line.prefix]
    if room < MIN_WIDTH:
        prefix, indent, room = [], 0, width
    style = _style(line.colour)
    rows = _rows(line.text, room, by_words=bool(line.prefix)) or [""]
    heads = [prefix] + [[Segment(" " * indent, style)]] * (len(rows) - 1)
    return [Strip([*head, Segment(row, style)]) for head, row in zip(heads, rows, strict=True)]


def _rows(text: str, width: int, *, by_words: bool) -> list[str]:
    if by_words:
        return textwrap.wrap(text, width)
    return [text] if cell_len(text) <= width else chop_cells(text, width)


def _style(colour: str) -> Style:
    return Style(color=colour, bgcolor=BACKGROUND)

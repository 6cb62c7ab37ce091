"""One plot under a title row with its legend; repaints only the rows that changed."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from functools import lru_cache

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from memdash.tui import plotting
from memdash.tui.palette import BACKGROUND, DIM, FAINT, LOSS, RULE, TEXT
from memdash.tui.plots import Plot

Words = tuple[tuple[str, str], ...]
"""Text and colour, one after the other."""


class PlotView(Widget):
    """A picture of a Plot, or a reason why there is none."""

    def __init__(self, name: str) -> None:
        super().__init__(id=f"plot-{name}", classes="plot")
        self.plot: Plot | None = None
        self.reason = ""
        self._body: list[Strip] = []
        self._head = Strip([])  # not a blank one: its segment has no style, and without colours Textual asks for it
        self._unpainted = False
        self.paints = 0
        """How often plotext was asked."""

    @property
    def plot_size(self) -> tuple[int, int]:
        """Cells of the picture under the title row."""
        return self.size.width, max(0, self.size.height - 1)

    def show(self, title: Title, plot: Plot | None, reason: str = "") -> None:
        """Show a plot, or the reason why there is none; costs nothing when both are the same as before."""
        late = self._unpainted and plotting.loaded()
        if plot != self.plot or reason != self.reason or not self._body or late:
            self.plot, self.reason = plot, reason
            self._replace_body()
        head = title_row(title.words(self.size.width), self.size.width)
        if head != self._head:
            self._head = head
            self.refresh(Region(0, 0, self.size.width, 1))

    def render_line(self, y: int) -> Strip:
        """One row of the widget."""
        if y == 0:
            return self._head.adjust_cell_length(self.size.width, _style(RULE))
        strip = self._body[y - 1] if y <= len(self._body) else Strip.blank(self.size.width, _style(DIM))
        return strip.adjust_cell_length(self.size.width, _style(DIM))

    def get_content_width(self, container: Size, viewport: Size) -> int:
        """All there is."""
        return container.width

    def _replace_body(self) -> None:
        before, self._body = self._body, self._paint()
        rows = max(len(before), len(self._body))
        changed = [y for y in range(rows) if before[y : y + 1] != self._body[y : y + 1]]
        if changed:
            self.refresh(*(Region(0, y + 1, self.size.width, 1) for y in changed))

    def _paint(self) -> list[Strip]:
        self._unpainted = self.plot is not None and not plotting.loaded()
        if self.plot is None or self._unpainted:
            return reason_rows(self.reason, *self.plot_size)
        self.paints += 1
        return plotting.paint(self.plot)


def title_row(words: Words, width: int) -> Strip:
    """`─ host memory  ━ working set ───`."""
    segments = [Segment("─ ", _style(RULE)), *(Segment(text, _style(colour)) for text, colour in words)]
    segments.append(Segment(" " + "─" * width, _style(RULE)))
    return Strip(segments).crop(0, width)


@dataclass(frozen=True)
class Title:
    """The words over a plot, with shorter ones for narrow panes."""

    name: str
    legend: tuple[tuple[str, str, str], ...] = ()
    """Each series: name, short name, colour."""
    colour: str = TEXT
    notes: tuple[tuple[str, str], ...] = ()
    """Text and colour of what is said after the legend, the most important first."""
    label: str = ""
    """Stands out after the name, however narrow the pane."""

    def words(self, width: int) -> Words:
        """The longest form that fits."""
        forms = [(form, notes) for form in range(3) for notes in range(len(self.notes), -1, -1)]
        for form, notes in forms:
            words = self._form(form, notes)
            if sum(len(text) for text, _ in words) + 4 <= width:
                break
        return words

    def _form(self, form: int, notes: int) -> Words:
        """0 = with room, 1 = tight, 2 = with short names."""
        words = [(self.name, self.colour), (f" {self.label}" if self.label else "", LOSS)]
        gap, stroke = (" ", "━") if form else ("  ", "━ ")
        for name, short, colour in self.legend:
            words += [(f"{gap}{stroke}", colour), (short if form == 2 else name, DIM)]
        return (*words, *((f"{gap}{text}", colour) for text, colour in self.notes[:notes]))


def reason_rows(reason: str, width: int, height: int) -> list[Strip]:
    """The reason in the middle of an otherwise empty pane."""
    lines = textwrap.wrap(reason, max(8, width - 8))[:height]
    above = [""] * ((height - len(lines)) // 2)
    rows = [*above, *(line.center(width).rstrip() for line in lines)]
    rows += [""] * (height - len(rows))
    return [Strip([Segment(row, _style(FAINT))]).adjust_cell_length(width, _style(FAINT)) for row in rows]


@lru_cache(maxsize=64)
def _style(colour: str) -> Style:
    return Style(color=colour, bgcolor=BACKGROUND)

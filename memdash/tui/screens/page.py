"""A page of lines over the dashboard that follows the run while it is open."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual.containers import Vertical

from memdash.tui.board import Board
from memdash.tui.screens.dialog import Dialog
from memdash.tui.widgets.line_pane import LinePane, TextLine

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from memdash.tui.app import Dashboard

REDRAW_S = 1.0


class Page(Dialog[None]):
    """What a subclass's `lines` say of the board, drawn anew when they change."""

    NAME: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._shown: list[TextLine] = []

    def lines(self, board: Board) -> list[TextLine]:
        """What there is to read now."""
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        """One scrolling text."""
        with Vertical(id=self.NAME, classes="dialog") as dialog:
            dialog.border_title = self.NAME
            dialog.border_subtitle = "↑↓ scroll · escape: back"
            yield LinePane(self.NAME)

    def on_mount(self) -> None:
        """From the top, and again every second."""
        self.query_one(LinePane).focus()
        self.call_after_refresh(self.draw)  # before it, no line is wide enough for more than a word
        self.set_interval(REDRAW_S, self.draw)

    def draw(self) -> None:
        """Show the newest readings."""
        lines = self.lines(cast("Dashboard", self.app).board)
        if lines != self._shown:
            self._shown = lines
            self.query_one(LinePane).show(lines, follow=False)

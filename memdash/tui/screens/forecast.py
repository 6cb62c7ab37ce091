"""The forecast page: everything that memory is heading for, with its figures and what they rest on."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.containers import Vertical

from memdash.tui.foresight import forecast_lines
from memdash.tui.screens.dialog import Dialog
from memdash.tui.widgets.line_pane import LinePane, TextLine

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from memdash.tui.app import Dashboard

REDRAW_S = 1.0


class ForecastScreen(Dialog[None]):
    """Follows the run while it is open; any of escape, f and q leaves it."""

    BINDINGS = [("escape,f,q", "dismiss", "back")]

    def __init__(self) -> None:
        super().__init__()
        self._shown: list[TextLine] = []

    def compose(self) -> ComposeResult:
        """One scrolling text."""
        with Vertical(id="forecast", classes="dialog") as dialog:
            dialog.border_title = "forecast"
            dialog.border_subtitle = "↑↓ scroll · escape: back"
            yield LinePane("forecast")

    def on_mount(self) -> None:
        """From the top, and again every second."""
        self.query_one(LinePane).focus()
        self.draw()
        self.set_interval(REDRAW_S, self.draw)

    def draw(self) -> None:
        """Show the newest forecast."""
        lines = forecast_lines(cast("Dashboard", self.app).board.state)
        if lines != self._shown:
            self._shown = lines
            self.query_one(LinePane).show(lines, follow=False)

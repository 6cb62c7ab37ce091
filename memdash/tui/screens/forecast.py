"""The forecast page: everything that memory is heading for, with its figures and what they rest on."""

from __future__ import annotations

from memdash.tui.board import Board
from memdash.tui.foresight import forecast_lines
from memdash.tui.screens.page import Page
from memdash.tui.widgets.line_pane import TextLine


class ForecastScreen(Page):
    """Any of escape, f and q leaves it."""

    NAME = "forecast"
    BINDINGS = [("escape,f,q", "dismiss", "back")]

    def lines(self, board: Board) -> list[TextLine]:
        """The newest forecast."""
        return forecast_lines(board.state)

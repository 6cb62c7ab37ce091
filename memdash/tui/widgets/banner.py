"""The line that cannot be missed: how the run ended, or that its supervisor is lost."""

from __future__ import annotations

from memdash.tui.board import Board
from memdash.tui.figures import ending
from memdash.tui.palette import BACKGROUND, STATUS_COLOURS, WARNING
from memdash.tui.widgets.words import WordsView

_MARKS = {"finished": "✓", "stopped": "■"}


class Banner(WordsView):
    """Hidden as long as there is nothing to say."""

    def draw(self, board: Board, lost: str) -> None:
        """Show the end of the run, or `lost`."""
        text, colour = "", WARNING
        if board.state is not None and board.is_over():
            text, colour = self._end(board), STATUS_COLOURS[board.state.status]
        elif lost:
            text = f" {lost}"
        self.set_class(not text, "hidden")
        width = self.size.width or self.app.size.width
        self.show(tuple((line.ljust(width)[:width], f"bold {BACKGROUND} on {colour}") for line in text.split("\n")))

    def _end(self, board: Board) -> str:
        assert board.state is not None
        mark = _MARKS.get(board.state.status, "✗")
        reason = f" · {board.state.status_reason}" if board.state.status_reason else ""
        return f" {mark} {ending(board.state)}{reason} · q: leave"

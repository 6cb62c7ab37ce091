"""The journal pane: commands, answers, recoveries, state changes."""

from __future__ import annotations

from memdash import wire
from memdash.tui.axes import elapsed
from memdash.tui.board import Board
from memdash.tui.palette import FAINT, LEVEL_COLOURS, TEXT
from memdash.tui.widgets.line_pane import LinePane, TextLine

_MARKS = {"info": "·", "good": "✓", "warning": "!", "error": "✗"}


class JournalPane(LinePane):
    """The newest entries at the bottom."""

    def __init__(self) -> None:
        super().__init__("journal", id="journal")
        self._version = -1

    def draw(self, board: Board) -> None:
        """Show what the board has, if it is new."""
        if board.journal_version != self._version:
            self._version = board.journal_version
            origin_s = board.state.created_s if board.state else 0.0
            self.show([journal_line(entry, origin_s) for entry in board.journal])


def journal_line(entry: wire.JournalEntry, origin_s: float) -> TextLine:
    """`12m03 step 120 ✓ text`."""
    when = elapsed(max(0.0, entry.time_s - origin_s)).rjust(6)
    colour = LEVEL_COLOURS[entry.level]
    prefix = ((f"{when} ", FAINT), (f"#{entry.step:<5} ", FAINT), (f"{_MARKS[entry.level]} ", colour))
    return TextLine(entry.text, TEXT if entry.level == "info" else colour, prefix)

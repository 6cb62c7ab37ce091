"""The journal pane: commands, answers, recoveries, state changes."""

from __future__ import annotations

from memdash import wire
from memdash.tui.axes import elapsed
from memdash.tui.board import Board
from memdash.tui.palette import DIM, FAINT, LEVEL_COLOURS, TEXT
from memdash.tui.widgets.line_pane import LinePane, TextLine

HINTS = (
    "1 memory  2 training  3 journal  4 output  w time  z zoom",
    "1 memory  2 training  3 journal  4 output",
)
_MARKS = {"info": "·", "good": "✓", "warning": "!", "error": "✗"}


class JournalPane(LinePane):
    """The newest entries at the bottom."""

    def __init__(self) -> None:
        super().__init__("journal", id="journal")
        self._version = -1
        self._title = ""

    def hint(self, *, wanted: bool) -> None:
        """Say in the title how the rest of the run is seen, where the footer has no room for it."""
        hint = next((hint for hint in HINTS if wanted and len(hint) + 14 <= self.size.width), "")
        title = f" journal [{DIM}]─ {hint}[/] " if hint else " journal "
        if title != self._title:
            self._title = self.border_title = title

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

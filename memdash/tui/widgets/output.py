"""The output pane: what the training script itself printed."""

from __future__ import annotations

from memdash.tui.board import Board
from memdash.tui.output_text import OutputText
from memdash.tui.palette import DIM
from memdash.tui.widgets.line_pane import LinePane, TextLine


class OutputPane(LinePane):
    """The newest lines at the bottom."""

    def __init__(self) -> None:
        super().__init__("output of the script", id="output")
        self._shown: OutputText | None = None
        self._version = -1

    def draw(self, board: Board) -> None:
        """Show what the board has, if it is new."""
        output = board.output
        if output is self._shown and output.version == self._version:
            return
        changed_from = output.changed_from if output is self._shown else 0
        self._shown, self._version = output, output.version
        lines = output.lines if output.lines[-1] else output.lines[:-1]
        unchanged = self._lines[:changed_from]
        self.show([*unchanged, *(TextLine(line, DIM) for line in lines[len(unchanged) :])], len(unchanged))
        output.changed_from = len(output.lines) - 1

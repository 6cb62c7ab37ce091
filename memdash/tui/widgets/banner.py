"""The line or two that cannot be missed: how the run ended, that its supervisor is lost, or what memory is heading for."""

from __future__ import annotations

import textwrap

from memdash.tui.board import Board
from memdash.tui.figures import ending
from memdash.tui.foresight import alarm
from memdash.tui.palette import BACKGROUND, STATUS_COLOURS, WARNING
from memdash.tui.widgets.words import WordsView

MAX_LINES = 2
_BETWEEN = " · "
LEAVE, WHY = " · q: leave", " · f: why"
"""Where it costs no line; help says it too."""


class Banner(WordsView):
    """Hidden as long as there is nothing to say."""

    def draw(self, board: Board, lost: str) -> None:
        """Show the end of the run, or `lost`, or an alarming forecast."""
        headline, alarming = alarm(board.state)
        parts, colour = (lost.split(_BETWEEN), WARNING) if lost else ([headline] if headline else [], alarming)
        if board.state is not None and board.is_over():
            parts, colour = ending(board), STATUS_COLOURS[board.state.status]
        self.set_class(not parts, "hidden")
        width = self.size.width or self.app.size.width
        lines = banner_lines(parts, max(1, width - 2))
        hint = LEAVE if board.is_over() else WHY if headline and not lost else ""
        if lines and hint and len(lines[-1]) + len(hint) + 2 <= width and not lines[-1].endswith("…"):
            lines[-1] += hint
        self.styles.height = max(1, len(lines))
        words = [(f" {line}".ljust(width)[:width], f"bold {BACKGROUND} on {colour}") for line in lines]
        self.show(tuple(word for line in words for word in (("\n", ""), line))[1:])


def banner_lines(parts: list[str], width: int) -> list[str]:
    """Two lines at most, cut at the end; only the first part, which may be a long reason, is broken between words."""
    glued = [part.replace(" ", "\u00a0") for part in parts[1:]]
    text = _BETWEEN.join([*parts[:1], *glued])
    lines = textwrap.wrap(
        text, width, max_lines=MAX_LINES, placeholder=" …" if width > 2 else "", break_on_hyphens=False
    )
    return [line.replace("\u00a0", " ").removeprefix("· ").removesuffix(" ·") for line in lines]

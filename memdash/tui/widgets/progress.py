"""The second line: steps, a bar, epoch, time left."""

from __future__ import annotations

from memdash import wire
from memdash.tui.board import Board
from memdash.tui.figures import epoch_text, progress
from memdash.tui.palette import DIM, RULE, STATUS_COLOURS, TEXT
from memdash.tui.widgets.words import Words, WordsView, length
from memdash.units import format_duration, format_percent

MIN_BAR = 8


class ProgressLine(WordsView):
    """One line."""

    def draw(self, board: Board) -> None:
        """Show how far the run is."""
        state = board.state
        if state is None or not state.total_steps:
            self.show(((_no_steps(state), DIM),))
            return
        done = progress(state)
        left = ((f"step {state.step:,}", f"bold {TEXT}"), (f"/{state.total_steps:,}  ", DIM))
        eta = "" if board.is_over() else f"  ETA {format_duration(state.eta_s)}"
        percent, epoch = (f"  {format_percent(done)}", f"bold {TEXT}"), (f"  {epoch_text(state)}", DIM)
        right: Words = (percent, epoch, (eta, TEXT))
        if length(left) + length(right) + MIN_BAR > self.size.width:  # the time left matters more than the epoch
            right = (percent, (eta, TEXT))
        room = max(1, self.size.width - length(left) - length(right))
        self.show((*left, *bar(done, room, STATUS_COLOURS[state.status]), *right))


def _no_steps(state: wire.RunState | None) -> str:
    if state is None:
        return ""
    reason = wire.outside_only(state)
    return f"{reason}: no steps, keys or ETA" if reason else "no step yet"


def bar(part: float, width: int, colour: str) -> tuple[tuple[str, str], tuple[str, str]]:
    """A bar that fills by halves of a cell."""
    halves = round(part * width * 2)
    full = "━" * (halves // 2) + ("╸" if halves % 2 else "")
    return (full, colour), ("━" * (width - len(full)), RULE)

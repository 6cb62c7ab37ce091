"""All that fits where nothing fits: one line of status, step and the worst headroom."""

from __future__ import annotations

from memdash.tui.board import Board
from memdash.tui.danger import headroom_fraction
from memdash.tui.figures import DANGER_COLOURS, simulated
from memdash.tui.palette import DIM, STATUS_COLOURS, TEXT
from memdash.tui.widgets.words import Words, WordsView, cut, length
from memdash.units import format_percent


class Glance(WordsView):
    """One line."""

    def draw(self, board: Board) -> None:
        """Show the longest form that fits."""
        self.show(glance_words(board, self.size.width))


def glance_words(board: Board, width: int) -> Words:
    """`41% sim dev  ● running 412/1,200`: the headroom first, because the end is cut."""
    state = board.state
    if state is None:
        return ((cut("connecting ...", width), DIM),)
    worst, where = _worst(board)
    percent = (format_percent(worst), f"bold {DANGER_COLOURS[board.dangers[where]] if where else DIM}")
    status = (f"  {'●' if board.playback is None else 'replay'} {state.status}", f"bold {STATUS_COLOURS[state.status]}")
    step, steps = (f" {state.step:,}", TEXT), (f"/{state.total_steps:,}", DIM)
    name = "sim dev" if where == "device" and simulated(board.device()) else where
    forms: tuple[Words, ...] = (
        (percent, (f" {name} headroom", DIM), status, (" step", DIM), step, steps),
        (percent, (f" {name}", DIM), status, step),
        (percent, status, step),
        (percent, status),
    )
    return next((form for form in forms if length(form) <= width), (percent,))


def _worst(board: Board) -> tuple[float | None, str]:
    """The smaller headroom of the two memories, and whose it is."""
    known = [(fraction, where) for where in ("device", "host") if (fraction := _fraction(board, where)) is not None]
    return min(known, default=(None, ""))


def _fraction(board: Board, where: str) -> float | None:
    return headroom_fraction(*board.headroom(where))

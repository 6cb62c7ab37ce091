"""The ledger: where every byte of the device and of host memory is, and what could be done about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.containers import Vertical

from memdash.ledger import Ledger, Row, device_ledger, host_ledger
from memdash.tui.board import Board
from memdash.tui.palette import DIM, FAINT, GOOD, INFO, TEXT, WARNING
from memdash.tui.screens.dialog import Dialog
from memdash.tui.widgets.line_pane import LinePane, TextLine
from memdash.units import format_bytes, format_percent

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from memdash.tui.app import Dashboard

REDRAW_S = 1.0
BAR = 8
_COLOURS = {"free": GOOD, "page cache": GOOD, "cached": WARNING, "fragments": WARNING, "unexplained": DIM}


class LedgerScreen(Dialog[None]):
    """Follows the run while it is open; any of escape, l and q leaves it."""

    BINDINGS = [("escape,l,q", "dismiss", "back")]

    def __init__(self) -> None:
        super().__init__()
        self._shown: list[TextLine] = []

    def compose(self) -> ComposeResult:
        """One scrolling text."""
        with Vertical(id="ledger", classes="dialog") as dialog:
            dialog.border_title = "ledger"
            dialog.border_subtitle = "↑↓ scroll · escape: back"
            yield LinePane("ledger")

    def on_mount(self) -> None:
        """From the top, and again every second."""
        pane = self.query_one(LinePane)
        pane.focus()
        self.draw()
        self.set_interval(REDRAW_S, self.draw)

    def draw(self) -> None:
        """Show the newest readings."""
        pane = self.query_one(LinePane)
        lines = ledger_lines(cast("Dashboard", self.app).board)
        if lines != self._shown:
            self._shown = lines
            pane.show(lines, follow=False)


def ledger_lines(board: Board) -> list[TextLine]:
    """Both ledgers, a row for each use and a line of words under it."""
    memory = board.device()
    device = device_ledger(memory, board.gpu())
    lines = _lines(device) if device else _unknown("device", memory.reason if memory else "")
    return [*lines, TextLine(""), *(_lines(host) if (host := host_ledger(board.host)) else _unknown("host", ""))]


def _unknown(what: str, reason: str) -> list[TextLine]:
    return [TextLine(f"{what}: n/a", DIM), TextLine(f"  {reason or 'nothing has been read yet'}", FAINT)]


def _lines(ledger: Ledger) -> list[TextLine]:
    lines = [TextLine(f"{ledger.what}: {format_bytes(ledger.total_bytes)}  by {ledger.source}", INFO)]
    for row in ledger.rows:
        colour = _COLOURS.get(row.name, TEXT)
        lines.append(TextLine(f"{row.kind}, {row.source}", DIM, ((_figures(row, ledger.share(row)), colour),)))
        if row.note:
            lines.append(TextLine(row.note, FAINT, (("      ", FAINT),)))
    return lines


def _figures(row: Row, share: float | None) -> str:
    bar = "━" * round(BAR * min(1.0, abs(share or 0.0)))
    size = format_bytes(row.size_bytes)
    return f"  {row.name:<18}{size:>9}  {format_percent(share):>4} {bar:<{BAR}} "

"""The ledger: where every byte of the device and of host memory is, and what could be done about it."""

from __future__ import annotations

from memdash.ledger import Ledger, Row, device_ledger, host_ledger
from memdash.tui.board import Board
from memdash.tui.palette import DIM, FAINT, GOOD, INFO, TEXT, WARNING
from memdash.tui.screens.page import Page
from memdash.tui.widgets.line_pane import TextLine
from memdash.units import format_bytes, format_percent

BAR = 8
_COLOURS = {"free": GOOD, "page cache": GOOD, "cached": WARNING, "fragments": WARNING, "unexplained": DIM}


class LedgerScreen(Page):
    """Any of escape, l and q leaves it."""

    NAME = "ledger"
    BINDINGS = [("escape,l,q", "dismiss", "back")]

    def lines(self, board: Board) -> list[TextLine]:
        """The newest readings."""
        return ledger_lines(board)


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

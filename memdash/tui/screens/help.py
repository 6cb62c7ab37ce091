"""The help screen: keys, colours, what headroom means, exit codes."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

from textual.containers import Vertical

from memdash import wire
from memdash.errors import ExitCode
from memdash.tui.actions import ACTIONS
from memdash.tui.palette import (
    DANGER,
    DIM,
    FORECAST,
    GOOD,
    INFO,
    LOSS,
    LOSS_RAW,
    PEAK,
    PROCESS_TREE,
    TEXT,
    WARNING,
    WORKING_SET,
)
from memdash.tui.screens.dialog import Dialog
from memdash.tui.widgets.line_pane import LinePane, TextLine

if TYPE_CHECKING:
    from textual.app import ComposeResult

_OTHER_KEYS = (
    ("q", "Detach: the run goes on; `memdash attach RUN` comes back to it. Ctrl-C does the same."),
    ("1 2 3 4", "Memory, training, journal, output; the same key again shows everything."),
    ("f", "The forecast: everything that memory is heading for, when, and what that rests on."),
    ("l", "The ledger: where every byte of the device and of host memory is, and what could be done about it."),
    ("v", "The plan: what each micro-batch was estimated to need before the start, beside what is measured."),
    ("w", "How much time the plots show: 1 minute, 5 minutes, 30 minutes, all."),
    ("z", "Memory plots from zero to capacity, or zoomed to what is shown."),
    ("tab", "Focus the journal or the output, to scroll with the arrow and page keys."),
    ("?", "This page; escape leaves it."),
)
_PLAYBACK_KEYS = (
    ("space", "Hold, or play on; at the end: from the beginning."),
    ("← →", "Ten seconds back or on; with shift a minute, of a long recording one per cent. Or click on the bar."),
    ("home end", "The beginning, the end."),
    (
        "< > [ ]",
        "Slower, faster: from the time it took to a thousand times that. Where nothing was recorded is left out.",
    ),
    ("n N", "The next warning or error of the journal, the one before: the ! and ✗ on the bar."),
)
_COLOURS = (
    (WORKING_SET, "host working set: what counts against the capacity, page cache that can be given back left out"),
    (PROCESS_TREE, "the training process and its children; on the device: reserved by the allocator"),
    (GOOD, "device memory allocated to tensors"),
    (PEAK, "the most that was allocated within each step"),
    (LOSS, "loss, smoothed"),
    (LOSS_RAW, "lowest and highest loss of the steps in one column"),
    (FORECAST, "what is forecast: the fan of a memory that fills up, an upright line for a step that will not fit"),
    (WARNING, "headroom under 10 % of capacity"),
    (DANGER, "capacity; headroom under 5 % of it; errors"),
)


class HelpScreen(Dialog[None]):
    """Scrolls; any of escape, q and ? leaves it."""

    BINDINGS = [("escape,q,question_mark", "dismiss", "back")]

    def compose(self) -> ComposeResult:
        """One scrolling text."""
        with Vertical(id="help", classes="dialog") as dialog:
            dialog.border_title = "help"
            dialog.border_subtitle = "↑↓ scroll · escape: back"
            yield LinePane("help")

    def on_mount(self) -> None:
        """From the top."""
        pane = self.query_one(LinePane)
        pane.show(help_lines(), follow=False)
        pane.focus()


def help_lines() -> list[TextLine]:
    """The whole page."""
    keys = [(action.key, action.help_text) for action in ACTIONS]
    headroom = [
        ("device", _one_line(wire.device_headroom_bytes.__doc__)),
        ("host", _one_line(wire.host_headroom_bytes.__doc__)),
    ]
    return [
        *_section("Keys", [(key, INFO, text) for key, text in (*keys, *_OTHER_KEYS)]),
        *_section("Keys of a recording, in memdash replay", [(key, INFO, text) for key, text in _PLAYBACK_KEYS]),
        *_section("Headroom", [(where, INFO, text) for where, text in headroom]),
        *_section("Colours", [("━━━━", colour, text) for colour, text in _COLOURS]),
        *_section("Exit codes of `memdash run --headless`", [(str(code), INFO, text) for code, text in exit_codes()]),
    ]


def _section(title: str, rows: list[tuple[str, str, str]]) -> list[TextLine]:
    lines = [TextLine(text, DIM, ((f"  {word:<9}", colour),)) for word, colour, text in rows]
    return [TextLine(title, TEXT), *lines, TextLine("")]


def exit_codes() -> list[tuple[int, str]]:
    """Every code with the words under it in errors.py."""
    pairs = re.findall(r'^    ([A-Z_]+) = \d+\n    """(.+?)"""', inspect.getsource(ExitCode), re.MULTILINE)
    return [(int(ExitCode[name]), text) for name, text in pairs]


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())

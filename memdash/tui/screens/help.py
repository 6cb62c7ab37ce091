"""The help screen: keys, colours, what headroom means, exit codes."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from memdash import wire
from memdash.errors import ExitCode
from memdash.tui.actions import ACTIONS
from memdash.tui.palette import DANGER, DIM, GOOD, INFO, LOSS, LOSS_RAW, PEAK, PROCESS_TREE, TEXT, WARNING, WORKING_SET

if TYPE_CHECKING:
    from textual.app import ComposeResult

_OTHER_KEYS = (
    ("q", "Detach: the run goes on; `memdash attach RUN` comes back to it. Ctrl-C does the same."),
    ("1 2 3 4", "Memory, training, journal, output; the same key again shows everything."),
    ("w", "How much time the plots show: 1 minute, 5 minutes, 30 minutes, all."),
    ("z", "Memory plots from zero to capacity, or zoomed to what is shown."),
    ("tab", "Focus the journal or the output, to scroll with the arrow and page keys."),
    ("?", "This page; escape leaves it."),
)
_COLOURS = (
    (WORKING_SET, "host working set: what counts against the capacity, page cache that can be given back left out"),
    (PROCESS_TREE, "the training process and its children; on the device: reserved by the allocator"),
    (GOOD, "device memory allocated to tensors"),
    (PEAK, "the most that was allocated within each step"),
    (LOSS, "loss, smoothed"),
    (LOSS_RAW, "loss of each step"),
    (WARNING, "headroom under 10 % of capacity"),
    (DANGER, "capacity; headroom under 5 % of it; errors"),
)


class HelpScreen(ModalScreen[None]):
    """Scrolls; any of escape, q and ? leaves it."""

    BINDINGS = [("escape,q,question_mark", "dismiss", "back")]

    def compose(self) -> ComposeResult:
        """One scrolling text."""
        with VerticalScroll(id="help", classes="dialog") as dialog:
            dialog.border_title = "help"
            dialog.border_subtitle = "escape: back"
            yield Static(help_content())


def help_content() -> Content:
    """The whole page."""
    parts: list[tuple[str, str]] = [("Keys\n", f"bold {TEXT}")]
    for key, text in (*((action.key, action.help_text) for action in ACTIONS), *_OTHER_KEYS):
        parts += [(f"  {key:<9}", f"bold {INFO}"), (f"{text}\n", DIM)]
    parts.append(("\nHeadroom\n", f"bold {TEXT}"))
    for where, function in (("device", wire.device_headroom_bytes), ("host", wire.host_headroom_bytes)):
        parts += [(f"  {where:<9}", f"bold {INFO}"), (f"{_one_line(function.__doc__)}\n", DIM)]
    parts.append(("\nColours\n", f"bold {TEXT}"))
    for colour, text in _COLOURS:
        parts += [("  ━━━      ", colour), (f"{text}\n", DIM)]
    parts.append(("\nExit codes of `memdash run --headless`\n", f"bold {TEXT}"))
    for code, text in exit_codes():
        parts += [(f"  {code:<9}", f"bold {INFO}"), (f"{text}\n", DIM)]
    return Content.assemble(*parts)


def exit_codes() -> list[tuple[int, str]]:
    """Every code with the words under it in errors.py."""
    pairs = re.findall(r'^    ([A-Z_]+) = \d+\n    """(.+?)"""', inspect.getsource(ExitCode), re.MULTILINE)
    return [(int(ExitCode[name]), text) for name, text in pairs]


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())

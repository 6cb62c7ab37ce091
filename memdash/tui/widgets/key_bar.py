"""The last line: every key, greyed out when it would be refused (pressing it says why)."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

from memdash.tui.actions import ACTIONS, label, refusal
from memdash.tui.board import Board
from memdash.tui.palette import DIM, INFO, RULE

_Key = tuple[str, str, str, bool]
"""Key, label, Textual action, possible."""


class KeyBar(Static):
    """One line; each key can be clicked."""

    def __init__(self) -> None:
        super().__init__("", id="keys")
        self._keys: tuple[_Key, ...] = ()
        self._extra = ""

    @property
    def greyed(self) -> list[str]:
        """The keys that would be refused."""
        return [key for key, _, _, possible in self._keys if not possible]

    def draw(self, board: Board, *, connected: bool, view: str, span: str) -> None:
        """Show what can be done now."""
        wide = self.size.width >= 110
        keys = tuple(
            (
                action.key,
                label(action, board.state) if wide or action.name == "pause" else action.short,
                f"screen.ask('{action.name}')",
                not refusal(action, board.state, linked=connected, pending=board.pending),
            )
            for action in ACTIONS
        )
        leave = "leave" if board.is_over() else "detach"
        keys += (("q", leave, "screen.leave", True), ("?", "help", "screen.help", True))
        extra = f"1-4 {view}  w {span}{'  z zoom' if self.size.width >= 128 else ''}" if wide else ""
        if (keys, extra) != (self._keys, self._extra):
            self._keys, self._extra = keys, extra
            self.update(self._content(), layout=False)

    def _content(self) -> Content:
        parts: list[Content | tuple[str, str]] = []
        for key, text, action, possible in self._keys:
            if possible:  # a link takes the widget's colour for links, whatever its own
                parts.append(Content.from_markup(f"[bold {INFO}]{key}[/] [@click={action}]{text}[/]  "))
            else:
                parts.append(Content.from_markup(f"[{RULE}]{key} {text}[/]  "))
        used = sum(part.cell_length for part in parts if isinstance(part, Content))
        parts.append((" " * max(0, self.size.width - used - len(self._extra)), ""))
        parts.append((self._extra, DIM))
        return Content.assemble(*parts)

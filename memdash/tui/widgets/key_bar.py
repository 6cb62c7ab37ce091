"""The last line: every key, greyed out when it would be refused (pressing it says why)."""

from __future__ import annotations

from dataclasses import dataclass

from textual.content import Content
from textual.widgets import Static

from memdash.tui.actions import ACTIONS, Action, label, refusal
from memdash.tui.board import Board
from memdash.tui.palette import DIM, INFO, RULE

GAP = 2
LONG_LABELS_FROM_WIDTH, ZOOM_FROM_WIDTH = 110, 128
DROPPED_FIRST = ("1-4", "m", "e", "P", "c", "C", "b", "p", "s", "0", "n", "<>", "←→")
"""Where there is no room; the way out and the help stay, and the help has them all."""


@dataclass(frozen=True)
class _Key:
    key: str
    label: str
    action: str
    """Textual's."""
    possible: bool = True

    @property
    def width(self) -> int:
        return len(f"{self.key} {self.label}") + GAP


class KeyBar(Static):
    """One line; each key can be clicked."""

    def __init__(self) -> None:
        super().__init__("", id="keys")
        self._keys: tuple[_Key, ...] = ()
        self._shown: tuple[tuple[_Key, ...], str] = ((), "")

    @property
    def greyed(self) -> list[str]:
        """The keys that would be refused."""
        return [key.key for key in self._keys if not key.possible]

    @property
    def shown(self) -> list[str]:
        """The keys for which there is room."""
        return [key.key for key in self._shown[0]]

    def draw(self, board: Board, *, connected: bool, view: str, span: str) -> None:
        """Show what can be done now."""
        wide = self.size.width >= LONG_LABELS_FROM_WIDTH
        self._keys = tuple(
            _Key(
                action.key,
                label(action, board.state) if wide or action.name == "pause" else action.short,
                f"screen.ask('{action.name}')",
                not self._refused(action, board, connected),
            )
            for action in ACTIONS
        )
        views = _Key("1-4", "views", "screen.next_view") if view == "all" else _Key("0", "all", "screen.view(0)")
        others = (
            _Key("q", "leave" if board.is_over() or board.playback else "detach", "screen.leave"),
            _Key("?", "help", "screen.help"),
        )
        extra = f"1-4 {view}  w {span}{'  z zoom' if self.size.width >= ZOOM_FROM_WIDTH else ''}" if wide else ""
        keys = (*_playback_keys(board), *self._keys, *(() if wide else (views,)), *others)
        shown = (fitting(keys, self.size.width - len(extra) + GAP), extra)
        if shown != self._shown:
            self._shown = shown
            self.update(self._content(*shown), layout=False)

    def _refused(self, action: Action, board: Board, connected: bool) -> bool:
        recording = board.playback is not None
        return bool(refusal(action, board.state, linked=connected, pending=board.pending, recording=recording))

    def _content(self, keys: tuple[_Key, ...], extra: str) -> Content:
        parts: list[Content | tuple[str, str]] = []
        gap = " " * GAP
        for key in keys:
            if key.possible:  # a link takes the widget's colour for links, whatever its own
                text = f"[bold {INFO}]{key.key}[/] [@click={key.action}]{key.label}[/]{gap}"
            else:
                text = f"[{RULE}]{key.key} {key.label}[/]{gap}"
            parts.append(Content.from_markup(text))
        used = sum(key.width for key in keys)
        parts.append((" " * max(0, self.size.width - used - len(extra)), ""))
        parts.append((extra, DIM))
        return Content.assemble(*parts)


def _playback_keys(board: Board) -> tuple[_Key, ...]:
    """Of a recording."""
    if board.playback is None:
        return ()
    return (
        _Key("space", "hold" if board.playback.playing else "play", "screen.play"),
        _Key("←→", "10 s", "screen.seek(1, False)"),
        _Key("<>", "speed", "screen.speed(1)"),
        _Key("n", "next !", "screen.mark(1)"),
    )


def fitting(keys: tuple[_Key, ...], width: int) -> tuple[_Key, ...]:
    """Those for which there is room; a key that leads back from a view is dropped late."""
    for name in DROPPED_FIRST:
        if sum(key.width for key in keys) <= width:
            break
        keys = tuple(key for key in keys if key.key != name)
    return keys

"""The stop dialog: asks before a run is ended, and what to save first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from textual.containers import Vertical

from memdash import wire
from memdash.tui.palette import DIM, FAINT, INFO, TEXT
from memdash.tui.screens.dialog import Dialog
from memdash.tui.widgets.words import Words, WordsView

if TYPE_CHECKING:
    from textual.app import ComposeResult

Save = Literal["full", "light", "none"]
_CHOICES: tuple[tuple[str, Save, str, str], ...] = (
    ("C", "full", "save a full checkpoint, then stop", "the run can be resumed exactly where it stopped"),
    ("c", "light", "save the weights, then stop", "the model can be used; training cannot be resumed exactly"),
    ("n", "none", "stop without saving", "all steps since the last checkpoint are lost"),
)
_BY_SIGNAL: tuple[str, Save, str, str] = (
    "n",
    "none",
    "stop it by SIGTERM",
    "it is killed when it does not end by itself",
)


class StopScreen(Dialog[Save | None]):
    """Answers with what to save, or None to let the run go on."""

    BINDINGS = [
        ("escape,q", "dismiss", "go on"),
        ("up,k", "move(-1)", "up"),
        ("down,j", "move(1)", "down"),
        ("enter", "choose", "choose"),
        *((key, f"choose('{save}')", save) for key, save, _, _ in _CHOICES),
    ]

    def __init__(self, state: wire.RunState) -> None:
        super().__init__()
        self._state = state
        can_save = state.linked and state.capabilities.get("SaveCheckpoint") == ""
        self._choices = _CHOICES if can_save else (_BY_SIGNAL,) if wire.outside_only(state) else _CHOICES[-1:]
        self._at = 0

    def compose(self) -> ComposeResult:
        """The three ways to stop."""
        with Vertical(id="stop", classes="dialog") as dialog:
            dialog.border_title = f"stop {self._state.name or self._state.run_id}?"
            dialog.border_subtitle = "↑↓ choose · enter: stop · escape: let it run"
            yield WordsView(id="ways")

    def on_mount(self) -> None:
        """Show the choices."""
        self._draw()

    def action_move(self, by: int) -> None:
        """Another choice."""
        self._at = (self._at + by) % len(self._choices)
        self._draw()

    def action_choose(self, save: Save | None = None) -> None:
        """Take the choice that is marked, or the one named."""
        save = save or self._choices[self._at][1]
        if save in (offered for _, offered, _, _ in self._choices):
            self.dismiss(save)

    def _draw(self) -> None:
        words: list[tuple[str, str]] = []
        for index, (key, _, text, meaning) in enumerate(self._choices):
            chosen = index == self._at
            words += [
                ("❯ " if chosen else "  ", f"bold {INFO}"),
                (f"{key}  ", INFO),
                (f"{text}\n", f"bold {TEXT}" if chosen else DIM),
                (f"     {meaning}\n", FAINT),
            ]
        self.query_one("#ways", WordsView).show(_without_last_newline(words))


def _without_last_newline(words: list[tuple[str, str]]) -> Words:
    text, style = words[-1]
    return (*words[:-1], (text.rstrip("\n"), style))

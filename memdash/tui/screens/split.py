"""The micro-batch dialog: which cut of the same global batch, what changes, what is known about its memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import on
from textual.containers import Vertical
from textual.widgets import Input, Static

from memdash.batching import BatchSplit, divisors
from memdash.errors import PlanError
from memdash.tui.palette import DANGER, DIM, FAINT, GOOD, INFO, TEXT
from memdash.tui.screens.dialog import Dialog
from memdash.tui.widgets.words import Words, WordsView
from memdash.units import format_bytes

if TYPE_CHECKING:
    from textual.app import ComposeResult

MAX_ROWS = 9


class SplitScreen(Dialog[int | None]):
    """Answers with a micro-batch, or None."""

    BINDINGS = [
        ("escape", "dismiss", "cancel"),
        ("up", "move(-1)", "smaller"),
        ("down", "move(1)", "larger"),
    ]

    def __init__(self, split: BatchSplit, peaks: dict[int, int], *, simulated: bool) -> None:
        super().__init__()
        self._split = split
        self._peaks = peaks
        self._simulated = simulated
        self._choices = divisors(split.group)
        self._early = ""

    def compose(self) -> ComposeResult:
        """The cuts, a free entry, and what it would change."""
        with Vertical(id="split", classes="dialog") as dialog:
            dialog.border_title = "micro-batch"
            dialog.border_subtitle = "↑↓ choose · enter: apply · escape: cancel"
            yield WordsView(id="choices")
            yield Input(str(self._split.micro_batch), type="integer", max_length=9, id="entry")
            yield WordsView(id="diff")
            yield Static(
                "Loss and step count go on as before, to rounding; dropout masks and batch statistics are drawn anew.",
                classes="note",
            )

    def on_mount(self) -> None:
        """The entry has the focus, so that a number can be typed at once."""
        self.query_one("#choices").styles.height = min(MAX_ROWS, len(self._choices))
        entry = self.query_one("#entry", Input)
        entry.border_title = f"or any number from 1 to {self._split.group}"
        self._type_early()
        entry.focus()
        self._draw()

    def typed_early(self, character: str) -> None:
        """A digit that was on its way while the dialog opened: behind it, it would have meant something else."""
        if character.isdigit():
            self._early += character
            self._type_early()

    def _type_early(self) -> None:
        entry = self.query("#entry").first(Input) if self._early and self.is_mounted else None
        if entry is not None:
            entry.select_on_focus = False  # what is typed next comes behind it
            entry.value = self._early
            entry.cursor_position = len(self._early)

    @on(Input.Changed)
    def entry_changed(self) -> None:
        """Show what the entry would change."""
        self._draw()

    @on(Input.Submitted)
    def entry_submitted(self) -> None:
        """Take the entry, if it is a split and another one."""
        chosen = self._chosen()
        if isinstance(chosen, BatchSplit) and chosen != self._split:
            self.dismiss(chosen.micro_batch)

    def action_move(self, by: int) -> None:
        """The next smaller or larger equal cut."""
        chosen = self._chosen()
        now = chosen.micro_batch if isinstance(chosen, BatchSplit) else self._split.micro_batch
        beyond = [size for size in self._choices if (size > now if by > 0 else size < now)]
        if beyond:
            entry = self.query_one("#entry", Input)
            entry.value = str(beyond[0] if by > 0 else beyond[-1])
            entry.cursor_position = len(entry.value)

    def _chosen(self) -> BatchSplit | str:
        text = self.query_one("#entry", Input).value
        try:
            return self._split.with_micro_batch(int(text))
        except ValueError:
            return "type a number"
        except PlanError as error:
            return str(error)

    def _draw(self) -> None:
        chosen = self._chosen()
        self.query_one("#choices", WordsView).show(self._choice_words(chosen))
        self.query_one("#diff", WordsView).show(diff_words(self._split, chosen))

    def _choice_words(self, chosen: BatchSplit | str) -> Words:
        """The equal cuts around the chosen one."""
        number = chosen.micro_batch if isinstance(chosen, BatchSplit) else 0
        at = max((index for index, size in enumerate(self._choices) if size <= number), default=0)
        first = max(0, min(at - MAX_ROWS // 2, len(self._choices) - MAX_ROWS))
        words: list[tuple[str, str]] = []
        for size in self._choices[first : first + MAX_ROWS]:
            words += self._choice(size, size == number)
        return tuple(words)

    def _choice(self, size: int, chosen: bool) -> Words:
        split = str(self._split.with_micro_batch(size))
        now = "now" if size == self._split.micro_batch else ""
        kind = "simulated peak" if self._simulated else "peak"
        peak = f"{kind} {format_bytes(self._peaks[size])}" if size in self._peaks else "no peak recorded"
        return (
            ("❯ " if chosen else "  ", f"bold {INFO}"),
            (f"{split:<18}", f"bold {TEXT}" if chosen else DIM),
            (f"{now:<5}", GOOD),
            (f"{peak}\n", TEXT if size in self._peaks else FAINT),
        )


def diff_words(now: BatchSplit, chosen: BatchSplit | str) -> Words:
    """`16 x 1 -> 8 x 2, global batch stays 16`."""
    if isinstance(chosen, str):
        return ((chosen, DANGER),)
    if chosen == now:
        return ((f"{_cut(now)}: as it is", FAINT),)
    return (
        (f"{_cut(now)} -> {_cut(chosen)}", f"bold {TEXT}"),
        (f", global batch stays {now.global_batch}", GOOD),
    )


def _cut(split: BatchSplit) -> str:
    return str(split).partition(" = ")[0]

"""Where in a recording we are: a bar to click on, with the journal's warnings and errors on it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from textual.message import Message

from memdash import wire
from memdash.tui.palette import DANGER, DIM, INFO, RULE, TEXT, WARNING
from memdash.tui.playback import cells, time_at
from memdash.tui.widgets.words import Words, WordsView, length
from memdash.units import format_duration

if TYPE_CHECKING:
    from textual import events

MIN_BAR = 10
CLOCK_FROM_WIDTH = 90
_MARKS = {"warning": ("!", f"bold {WARNING}"), "error": ("✗", f"bold {DANGER}")}


class Scrubber(WordsView):
    """One line, hidden unless what is shown is a recording."""

    class Clicked(Message):
        """Somebody wants to go there."""

        def __init__(self, time_s: float) -> None:
            super().__init__()
            self.time_s = time_s

    def __init__(self) -> None:
        super().__init__(id="scrubber", classes="hidden")
        self._playback: wire.Playback | None = None
        self._bar = (0, 0)
        """First cell of the bar, and how many it has."""

    def draw(self, playback: wire.Playback | None) -> None:
        """Show where we are."""
        self._playback = playback
        self.set_class(playback is None, "hidden")
        if playback is None:
            return
        width = (self.size.width or self.app.size.width) - 2 * (not self.size.width)
        left, right = _left(playback), _right(playback, clock=width >= CLOCK_FROM_WIDTH)
        room = width - length(left) - length(right)
        if room < MIN_BAR:
            right, room = (), width - length(left)
        self._bar = (length(left), max(1, room))
        self.show((*left, *bar(playback, max(1, room)), *right))

    def on_click(self, event: events.Click) -> None:
        """Go to where the bar was clicked."""
        first, width = self._bar
        cell = event.get_content_offset_capture(self).x - first
        if self._playback is not None and 0 <= cell < width:
            self.post_message(self.Clicked(time_at(self._playback, cell, width)))


def bar(playback: wire.Playback, width: int) -> Words:
    """A cell each: done, to come, marks, and where we are."""
    now, marks = cells(playback, width)
    words: list[tuple[str, str]] = []
    for cell in range(width):
        if cell == now:
            words.append(("●", f"bold {TEXT}"))
        elif cell in marks:
            words.append(_MARKS[marks[cell]])
        else:
            words.append(("━", INFO) if cell < now else ("─", RULE))
    return tuple(words)


def _left(playback: wire.Playback) -> Words:
    held = ("► ", f"bold {INFO}") if playback.playing else ("‖ ", f"bold {WARNING}")
    at = format_duration(playback.time_s - playback.start_s)
    return (held, (f"x{playback.speed:g}".ljust(6), TEXT if playback.playing else DIM), (f"{at:>7} ", f"bold {TEXT}"))


def _right(playback: wire.Playback, *, clock: bool) -> Words:
    total = (f" {format_duration(playback.end_s - playback.start_s)}", DIM)
    if not clock:
        return (total,)
    return (total, (time.strftime("  %a %H:%M:%S", time.localtime(playback.time_s)), DIM))

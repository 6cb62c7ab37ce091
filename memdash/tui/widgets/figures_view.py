"""Two lines of figures: up to four columns of two where it is narrow, eight cards where it is wide."""

from __future__ import annotations

from collections.abc import Sequence

from memdash.tui.board import Board
from memdash.tui.figures import Figure, figures
from memdash.tui.palette import DIM, FAINT
from memdash.tui.widgets.words import Words, WordsView, cut

CARDS_FROM_WIDTH = 176
NARROW_PARTS, PARTS = (0.28, 0.25, 0.21, 0.26), (0.34, 0.22, 0.22, 0.22)
MIN_COLUMN = 10  # less than this says nothing
SHORT_LABELS = {
    "device headroom": "device",
    "host headroom": "host",
    "checkpoint": "ckpt",
    "examples/s": "ex/s",
    "tokens/s": "tok/s",
}
LONG_LABELS_FROM_WIDTH = 100


class FiguresView(WordsView):
    """Every number that is not a curve."""

    def draw(self, board: Board) -> None:
        """Show them."""
        shown = figures(board)
        width = self.size.width
        self.show(_cards(shown, width) if width >= CARDS_FROM_WIDTH else pairs(shown, width))


def _cards(shown: list[Figure], width: int) -> Words:
    """A label over each value."""
    room = width // max(1, len(shown))
    labels: list[tuple[str, str]] = []
    values: list[tuple[str, str]] = []
    for figure in shown:
        labels.append((cut(figure.label, room - 1).ljust(room), DIM))
        value = cut(figure.value, room - 1)
        note = f"  {figure.note}" if len(value) + len(figure.note) + 3 <= room else ""
        values += [(value, f"bold {figure.colour}"), (note.ljust(room - len(value)), FAINT)]
    return (*labels, ("\n", ""), *values)


def pairs(shown: list[Figure], width: int) -> Words:
    """Label and value beside each other, filled column by column; the last columns go where there is no room."""
    columns = [shown[index : index + 2] for index in range(0, len(shown), 2)]
    labels = [max(len(_label(figure, width)) for figure in column) + 1 for column in columns]
    needs = [
        label + max(len(figure.value) for figure in column) + 1 for label, column in zip(labels, columns, strict=True)
    ]
    rooms = column_widths(needs, PARTS if width >= LONG_LABELS_FROM_WIDTH else NARROW_PARTS, width + 1)
    words: list[tuple[str, str]] = []
    for row in (0, 1):
        for column, label, room in zip(columns, labels, rooms, strict=False):
            words += _pair(column[row], room, label, width) if row < len(column) else ()
        words.append(("\n", ""))
    return tuple(words[:-1])


def column_widths(needs: Sequence[int], parts: Sequence[float], width: int) -> list[int]:
    """What each column needs, and its part of the rest; the last one may get less than it needs, or nothing."""
    widths: list[int] = []
    for need in needs:
        left = width - sum(widths)
        if widths and left < min(need, MIN_COLUMN):
            break
        widths.append(min(need, left))
    left = width - sum(widths)
    wanted = [max(0.0, width * part - own) for part, own in zip(parts, widths, strict=False)]
    return [own + int(left * want / (sum(wanted) or 1)) for own, want in zip(widths, wanted, strict=True)]


def _pair(figure: Figure, room: int, label_width: int, width: int) -> Words:
    """Exactly `room` cells, the last of them empty."""
    value = cut(figure.value, room - 1 - label_width)
    left = room - label_width - len(value)
    note = f"  {figure.note}" if 0 < len(figure.note) <= left - 3 and width >= LONG_LABELS_FROM_WIDTH else ""
    return (
        (cut(_label(figure, width), room - 1).ljust(min(label_width, room)), DIM),
        (value, f"bold {figure.colour}"),
        (note.ljust(max(0, left)), FAINT),
    )


def _label(figure: Figure, width: int) -> str:
    if width >= LONG_LABELS_FROM_WIDTH:
        return figure.label
    if figure.note == "simulated":  # there is no room for notes, and this one must not be missed
        return "sim dev"
    return SHORT_LABELS.get(figure.label, figure.label)

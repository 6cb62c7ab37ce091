"""Two lines of figures: four columns of two where it is narrow, eight cards where it is wide."""

from __future__ import annotations

from memdash.tui.board import Board
from memdash.tui.figures import Figure, figures
from memdash.tui.palette import DIM, FAINT
from memdash.tui.widgets.words import Words, WordsView

CARDS_FROM_WIDTH = 176
COLUMNS = 4
SHORT_LABELS = {
    "device headroom": "device",
    "simulated headroom": "sim.dev",
    "host headroom": "host",
    "checkpoint": "ckpt",
    "examples/s": "ex/s",
    "tokens/s": "tok/s",
}
SHORT_BELOW = 28  # cells of a column


class FiguresView(WordsView):
    """Every number that is not a curve."""

    def draw(self, board: Board) -> None:
        """Show them."""
        shown = figures(board)
        width = self.size.width
        self.show(_cards(shown, width) if width >= CARDS_FROM_WIDTH else _pairs(shown, width))


def _cards(shown: list[Figure], width: int) -> Words:
    """A label over each value."""
    room = width // max(1, len(shown))
    labels = tuple((_cut(figure.label, room), DIM) for figure in shown)
    values: list[tuple[str, str]] = []
    for figure in shown:
        note = f"  {figure.note}" if len(figure.value) + len(figure.note) + 3 <= room else ""
        values += [(figure.value, f"bold {figure.colour}"), (_cut(note, room - len(figure.value)), FAINT)]
    return (*labels, ("\n", ""), *values)


def _pairs(shown: list[Figure], width: int) -> Words:
    """Label and value beside each other, filled column by column."""
    room = width // COLUMNS
    words: list[tuple[str, str]] = []
    for row in (shown[0::2], shown[1::2]):
        for column, figure in enumerate(row):
            words += _pair(figure, room, _label_width(shown[2 * column : 2 * column + 2], room))
        words.append(("\n", ""))
    return tuple(words[:-1])


def _pair(figure: Figure, room: int, label_width: int) -> Words:
    value = _cut(figure.value, max(0, room - label_width - 1)).rstrip()
    left = room - label_width - len(value)
    note = f"  {figure.note}" if len(figure.note) + 4 <= left else ""
    return (
        (_label(figure, room).ljust(label_width), DIM),
        (value, f"bold {figure.colour}"),
        (_cut(note, left), FAINT),
    )


def _label_width(column: list[Figure], room: int) -> int:
    return max(len(_label(figure, room)) for figure in column) + 1


def _label(figure: Figure, room: int) -> str:
    return SHORT_LABELS.get(figure.label, figure.label) if room < SHORT_BELOW else figure.label


def _cut(text: str, width: int) -> str:
    return text[: max(0, width)].ljust(width)

"""Two lines of figures: four columns of two where it is narrow, eight cards where it is wide."""

from __future__ import annotations

from memdash.tui.board import Board
from memdash.tui.figures import Figure, figures
from memdash.tui.palette import DIM, FAINT
from memdash.tui.widgets.words import Words, WordsView

CARDS_FROM_WIDTH = 176
NARROW_PARTS, PARTS = (0.29, 0.23, 0.23, 0.25), (0.34, 0.22, 0.22, 0.22)
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
    words: list[tuple[str, str]] = []
    for row in (0, 1):
        for column, part in enumerate(PARTS if width >= LONG_LABELS_FROM_WIDTH else NARROW_PARTS):
            pair = shown[2 * column : 2 * column + 2]
            room = int(width * part)
            if row < len(pair):
                words += _pair(pair[row], room, max(len(_label(figure, width)) for figure in pair) + 1, width)
        words.append(("\n", ""))
    return tuple(words[:-1])


def _pair(figure: Figure, room: int, label_width: int, width: int) -> Words:
    left = room - label_width - len(figure.value)
    note = f"  {figure.note}" if 0 < len(figure.note) <= left - 3 else ""
    return (
        (_label(figure, width).ljust(label_width), DIM),
        (_cut(figure.value, room - label_width)[: room - label_width].rstrip(), f"bold {figure.colour}"),
        (_cut(note, left), FAINT),
    )


def _label(figure: Figure, width: int) -> str:
    if width >= LONG_LABELS_FROM_WIDTH:
        return figure.label
    if figure.note == "simulated":  # there is no room for notes, and this one must not be missed
        return "sim dev"
    return SHORT_LABELS.get(figure.label, figure.label)


def _cut(text: str, width: int) -> str:
    return text[: max(0, width)].ljust(width)

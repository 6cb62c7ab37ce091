"""Lines of coloured words that repaint only when they say something else."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

Words = tuple[tuple[str, str], ...]
"""Text and style (`bold #e6edf3`), one after the other."""


class WordsView(Static):
    """Shows words; `layout=False` because its size never depends on them."""

    def __init__(self, **kwargs: str) -> None:
        super().__init__("", **kwargs)  # type: ignore[arg-type]
        self._words: Words = ()

    @property
    def text(self) -> str:
        """What is shown."""
        return "".join(text for text, _ in self._words)

    def show(self, words: Words) -> None:
        """Show these words."""
        if words != self._words:
            self._words = words
            self.update(Content.assemble(*words), layout=False)


def length(words: Words) -> int:
    """Cells, as long as every character is one cell wide."""
    return sum(len(text) for text, _ in words)


def apart(left: Words, right: Words, width: int) -> Words:
    """`left` and `right` at the two ends of a line; what does not fit is cut from the right."""
    return (*left, (" " * max(1, width - length(left) - length(right)), ""), *right)


def cut(text: str, width: int) -> str:
    """At most `width` characters; an ellipsis says that there were more."""
    return text if len(text) <= width else text[: width - 1] + "…" if width > 0 else ""

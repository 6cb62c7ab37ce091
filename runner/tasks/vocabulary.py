"""Words and their numbers: made from the training texts, kept in each checkpoint."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from memdash.errors import UsageError

PAD, START, END, UNKNOWN = range(4)
SPECIAL = ("<pad>", "<start>", "<end>", "<unknown>")
FILE = "vocabulary.json"


class Vocabulary:
    """A number for every word; a word that is not in it is UNKNOWN."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = [*SPECIAL, *words]
        self._numbers = {word: number for number, word in enumerate(self.words) if number >= len(SPECIAL)}

    @classmethod
    def of(cls, texts: Iterable[str], size: int) -> Vocabulary:
        """The most frequent words, at most `size` with the special ones."""
        counts = Counter(word for text in texts for word in text.split())
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(ordered[: max(0, size - len(SPECIAL))])

    @classmethod
    def load(cls, folder: Path) -> Vocabulary:
        """What `save` wrote. Raises UsageError."""
        path = folder / FILE
        try:
            words = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: cannot be read: {error}") from None
        if not isinstance(words, list) or tuple(words[: len(SPECIAL)]) != SPECIAL:
            raise UsageError(f"{path}: not a vocabulary")
        return cls(words[len(SPECIAL) :])

    def save(self, folder: Path) -> None:
        """As a list of words; the place is the number."""
        (folder / FILE).write_text(json.dumps(self.words, ensure_ascii=False), encoding="utf-8")

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> list[int]:
        """Its words' numbers, and END."""
        return [self._numbers.get(word, UNKNOWN) for word in text.split()] + [END]

    def decode(self, numbers: Sequence[int]) -> str:
        """The words before END."""
        words = []
        for number in numbers:
            if number in (END, PAD):
                break
            words.append(self.words[number])
        return " ".join(words)

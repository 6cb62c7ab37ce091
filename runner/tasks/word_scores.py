"""How near guessed texts are to the right ones, in sums that can be added up over batches; jiwer aligns the words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

from memdash.errors import UsageError


def load_jiwer() -> ModuleType:
    """Only who evaluates needs it. Raises UsageError."""
    try:
        import jiwer
    except ModuleNotFoundError as error:
        if error.name not in ("jiwer", "rapidfuzz"):
            raise
        hint = "pip install 'memdash[train]', or set data.validation_fraction = 0"
        raise UsageError(f"the evaluation of signal-to-text needs the package {error.name}", hint=hint) from None
    return jiwer


def score(right: Sequence[str], guessed: Sequence[str]) -> dict[str, float]:
    """Sums over these texts; none of the right ones is empty."""
    found = load_jiwer().process_words(list(right), list(guessed))
    return {
        "texts": len(right),
        "exact": sum(a == b for a, b in zip(right, guessed, strict=True)),
        "words": found.hits + found.substitutions + found.deletions,
        "hits": found.hits,
        "errors": found.substitutions + found.deletions + found.insertions,
    }


def finish(sums: Mapping[str, float]) -> dict[str, float]:
    """Word error rate (insertions count, so it may be above 1), share of words that are right, and of whole texts."""
    return {
        "exact_match": sums["exact"] / sums["texts"],
        "wer": sums["errors"] / sums["words"],
        "word_accuracy": sums["hits"] / sums["words"],
    }

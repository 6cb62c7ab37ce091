"""What the training process says to people."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """One line on the standard output, at once: the supervisor shows it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

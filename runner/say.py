"""What the training process says to people, and that nothing it prints can end it."""

from __future__ import annotations

import io
import sys
from typing import Any


def say(text: str) -> None:
    """One line on the standard output, at once: the supervisor shows it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_without_fail() -> None:
    """From here on a full disk costs words and not the training: whatever cannot be written is dropped."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None:  # closed by whoever started us
            output = _Patient(stream.fileno(), "w", closefd=False)
            setattr(sys, name, io.TextIOWrapper(output, "utf-8", "backslashreplace", write_through=True))


class _Patient(io.FileIO):
    """The descriptor without a buffer, so that what failed is not tried again when the process ends."""

    def write(self, data: Any, /) -> int:
        """Write what there is room for; all of it counts as written."""
        try:
            super().write(data)
        except OSError:
            pass
        return len(data)

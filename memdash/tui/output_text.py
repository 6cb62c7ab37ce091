"""What a script printed, as a terminal would show it: carriage returns, cursor-up, no colours (pure)."""

from __future__ import annotations

import re

MAX_LINES = 2000
MAX_LINE_LENGTH = 4000  # a line without end would make every redraw slower

_TOKEN = re.compile(
    r"(?P<up>\x1b\[(?P<rows>\d*)A)"
    r"|(?P<erase>\x1b\[[02]?K)"
    r"|(?P<escape>\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-Z\\-_]|\x1b[()][0-9A-Z])"
    r"|(?P<control>[\x00-\x1f\x7f-\x9f])"
    r"|(?P<text>[^\x00-\x1f\x7f-\x9f]+)"
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]{0,200}\x1b?|[()]?)\Z")


class OutputText:
    """The last lines of an output; feed it chunks cut anywhere."""

    def __init__(self) -> None:
        self.lines: list[str] = [""]
        self.changed_from = 0
        """The first line that changed since this was last set; every line after it may have."""
        self.version = 0
        self._row = 0
        self._column = 0
        self._tail = ""

    def feed(self, text: str, skipped_bytes: int = 0) -> None:
        """Take in what was printed next."""
        if skipped_bytes:
            self._tail = ""
            self._write(f"\n[{skipped_bytes:,} bytes were printed too fast and are left out]\n")
        text = self._tail + text
        unfinished = _UNFINISHED.search(text)
        self._tail = unfinished[0] if unfinished else ""
        self._write(text[: len(text) - len(self._tail)])
        self._forget()
        self.version += 1

    def _write(self, text: str) -> None:
        for token in _TOKEN.finditer(text):
            kind = token.lastgroup
            if kind == "text":
                self._put(token[0])
            elif kind == "control":
                self._control(token[0])
            elif kind == "erase":
                self._set(self.lines[self._row][: self._column])
            elif token["up"]:
                self._row = max(0, self._row - int(token["rows"] or 1))

    def _put(self, text: str) -> None:
        line = self.lines[self._row].ljust(self._column)
        self._set((line[: self._column] + text + line[self._column + len(text) :])[:MAX_LINE_LENGTH])
        self._column = min(MAX_LINE_LENGTH, self._column + len(text))

    def _set(self, line: str) -> None:
        self.lines[self._row] = line
        self.changed_from = min(self.changed_from, self._row)

    def _control(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._row, self._column = self._row + 1, 0
            if self._row == len(self.lines):
                self.lines.append("")
        elif character == "\b":
            self._column = max(0, self._column - 1)
        elif character == "\t":
            self._put(" " * (8 - self._column % 8))

    def _forget(self) -> None:
        """Drop the oldest lines, in batches, because a viewer must then lay out all lines anew."""
        excess = len(self.lines) - MAX_LINES
        if excess > MAX_LINES // 4:
            del self.lines[:excess]
            self._row = max(0, self._row - excess)
            self.changed_from = 0

"""The script's output as a terminal would show it, however the chunks are cut."""

from __future__ import annotations

import pytest

from memdash.tui.output_text import MAX_LINES, OutputText

CASES = [
    ("plain", "one\ntwo\n", ["one", "two", ""]),
    ("windows line ends", "one\r\ntwo", ["one", "two"]),
    ("a bar rewrites its line", "\r 10%|# |\r 90%|##|\n", [" 90%|##|", ""]),
    ("a shorter rewrite leaves the rest", "12345\rab", ["ab345"]),
    ("unless it erases", "12345\rab\x1b[K", ["ab"]),
    ("nested bars go up", "a 1\nb 1\x1b[A\ra 2\nb", ["a 2", "b 1"]),
    ("colours are stripped", "\x1b[1;31mred\x1b[0m", ["red"]),
    ("titles and links are stripped", "\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b", ["ab"]),
    ("backspaces", "50%\b\b\b51%", ["51%"]),
    ("tabs", "a\tb", ["a       b"]),
    ("bells and other controls", "a\x07\x00\x9bb", ["ab"]),
    ("markup is only text", "[red]no[/red]", ["[red]no[/red]"]),
    ("wide characters", "训练 ok", ["训练 ok"]),
]


@pytest.mark.parametrize(("name", "text", "lines"), CASES, ids=[name for name, _, _ in CASES])
@pytest.mark.parametrize("cut", ["whole", "every character"])
def test_lines(name: str, text: str, lines: list[str], cut: str) -> None:
    output = OutputText()
    for chunk in [text] if cut == "whole" else text:
        output.feed(chunk)
    assert output.lines == lines


def test_skipped_bytes_are_said() -> None:
    output = OutputText()
    output.feed("before\n")
    output.feed("after", skipped_bytes=12_345)
    assert output.lines == ["before", "", "[12,345 bytes were printed too fast and are left out]", "after"]


def test_old_lines_are_forgotten_and_the_viewer_is_told() -> None:
    output = OutputText()
    output.feed("x\n")
    output.changed_from = 1
    for number in range(3 * MAX_LINES):
        output.feed(f"{number}\n")
    assert MAX_LINES <= len(output.lines) <= MAX_LINES * 5 // 4 + 1
    assert output.lines[-2] == str(3 * MAX_LINES - 1)
    assert output.changed_from == 0


def test_what_changed_is_known() -> None:
    output = OutputText()
    output.feed("a\nb\nc")
    output.changed_from = 2
    output.feed("d\ne")
    assert output.changed_from == 2
    output.feed("\x1b[2A\rA")
    assert output.changed_from == 1


def test_a_line_without_end_is_cut() -> None:
    output = OutputText()
    for _ in range(100):
        output.feed("x" * 1000)
    assert [len(line) for line in output.lines] == [4000]


def test_an_escape_that_never_ends_does_not_swallow_the_output() -> None:
    output = OutputText()
    output.feed("\x1b]0;" + "x" * 500)
    output.feed("\nstill here")
    assert output.lines[-1] == "still here"

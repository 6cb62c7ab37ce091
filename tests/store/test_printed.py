"""What was printed by when, across rotations and letters that are cut in two."""

from __future__ import annotations

import pytest

from memdash.store.printed import Printed, printed_before
from memdash.store.recorder import Recorder
from memdash.store.run_directory import RunDirectory


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "samples").mkdir()
    return RunDirectory(tmp_path)


def record(directory, *rows):
    recorder = Recorder(directory)
    for row in rows:
        recorder.output(*row)
    recorder.close()


@pytest.fixture
def printed(directory):
    directory.output.write_text("one\ntwo\nthree\n")
    record(directory, (10.0, 0, 4), (20.0, 0, 8))
    printed = Printed(directory)
    yield printed
    printed.close()


@pytest.mark.parametrize(("time_s", "text"), [(9.9, ""), (10.0, "one\n"), (15.0, "one\n"), (99.0, "one\ntwo\n")])
def test_by_a_time(printed, time_s, text):
    assert printed.text(0, printed.up_to(time_s)) == text


def test_all_of_it(printed):
    assert printed.text(0, printed.total) == "one\ntwo\nthree\n"
    assert printed.text(8, printed.total) == "three\n"


def test_a_run_of_which_nobody_recorded_it(directory):
    printed = Printed(directory)
    assert (printed.total, printed.text(0, 5)) == (0, "")
    directory.output.write_text("one\n")
    assert (printed.up_to(99.0), printed.text(0, printed.total)) == (0, "one\n")


def test_after_a_rotation(directory):
    directory.output.with_name("output.log.1").write_text("4567")  # 0 to 3 are gone
    directory.output.write_text("89")
    record(directory, (10.0, 0, 8), (20.0, 8, 10))
    printed = Printed(directory)
    assert printed_before(directory) == printed.begins_at == 8
    assert printed.total == 10
    assert [printed.text(start, 10) for start in (0, 5, 8, 9)] == ["456789", "56789", "89", "9"]
    assert printed.text(5, 7) == "56"
    assert printed.text(0, 3) == ""
    printed.close()


def test_a_letter_is_never_cut(directory):
    text = "aü€😀b"
    directory.output.write_text(text)
    printed = Printed(directory)
    total = printed.total
    for first in range(total + 1):
        for second in range(first, total + 1):
            parts = printed.text(0, first), printed.text(first, second), printed.text(second, total)
            assert "".join(parts) == text


def test_what_is_no_text_at_all(directory):
    directory.output.write_bytes(b"\x80" * 20)
    printed = Printed(directory)
    assert printed.text(5, 15) == "\ufffd" * 10

"""The output log: followed and bounded."""

from __future__ import annotations

import os

import pytest

from memdash.supervisor.output import MAX_READ_BYTES, OutputLog
from memdash.supervisor.symptoms import python_error


@pytest.fixture
def log(tmp_path):
    log = OutputLog(tmp_path / "output.log", max_bytes=1 << 20)
    yield log
    log.close()


def test_new_text_is_read_once(log):
    os.write(log.descriptor, b"one\n")
    assert log.read_new() == ("one\n", 0)
    assert log.read_new() == ("", 0)
    os.write(log.descriptor, b"two\n")
    assert log.read_new() == ("two\n", 0)
    assert log.tail() == "one\ntwo\n"


def test_letters_that_are_cut_in_two_come_whole(log):
    os.write(log.descriptor, "ü".encode()[:1])
    assert log.read_new() == ("", 0)
    os.write(log.descriptor, "ü".encode()[1:] + b"\xff")
    assert log.read_new() == ("ü\ufffd", 0)


def test_too_much_is_skipped_and_counted(log):
    os.write(log.descriptor, b"x" * (MAX_READ_BYTES + 1000))
    text, skipped = log.read_new()
    assert (len(text), skipped) == (MAX_READ_BYTES, 1000)


def test_a_long_log_is_cut_and_appending_goes_on(log, tmp_path):
    os.write(log.descriptor, b"old\n" * (1 << 18) + b"more\n")
    log.read_new()
    assert (tmp_path / "output.log").stat().st_size == 0
    assert (tmp_path / "output.log.1").stat().st_size == 1 << 19
    os.write(log.descriptor, b"new\n")
    assert log.read_new() == ("new\n", 0)
    assert (log.begins_at, log.ends_at) == ((1 << 20) + 5, (1 << 20) + 9)


def test_an_attempt_is_searched_by_itself(log):
    os.write(log.descriptor, b"Traceback (most recent call last):\nOldError: x\n")
    log.mark()
    assert python_error(log.since_mark()) == ""
    os.write(log.descriptor, b"Traceback (most recent call last):\n  File\nNewError: y\n")
    assert python_error(log.since_mark()) == "NewError: y"

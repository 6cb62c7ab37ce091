"""What a rank leaves on disk when it ends, whole or not at all; and who reads it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from memdash import wire
from memdash.agent import last_words
from memdash.agent.last_words import leave
from memdash.locations import runs_dir
from memdash.store.last_words import forget_last_words, read_last_words
from memdash.store.run_directory import RunDirectory, RunRecord, create_run

HELLO = wire.encode(wire.Hello(role="rank", protocol_version=1, run_id="r", pid=7, attempt=2))


def notice(number: int) -> bytes:
    return wire.encode(wire.Notice(rank=0, time_s=float(number), step=number, level="info", text="x" * 100))


@pytest.fixture
def directory() -> RunDirectory:
    record = RunRecord(run_id="r", name="r", created_s=1.0, argv=["x"], cwd="/")
    return create_run(record, config_json=b"{}", config_toml="", parent=runs_dir())


def left(directory: RunDirectory, attempt: int = 2) -> list[int]:
    return [message.step for words in read_last_words(directory, attempt) for message in words.messages]


def test_frames_come_back_in_order(directory):
    leave(str(directory.path), 0, [HELLO, *map(notice, range(5))])
    assert left(directory) == [0, 1, 2, 3, 4]
    assert left(directory, attempt=1) == []
    forget_last_words(directory)
    assert left(directory) == []


def test_every_rank_has_its_own(directory):
    leave(str(directory.path), 0, [HELLO, notice(1)])
    leave(str(directory.path), 1, [HELLO, notice(2)])
    assert left(directory) == [1, 2]


def test_too_many_frames_cost_the_oldest(directory, monkeypatch):
    monkeypatch.setattr(last_words, "MAX_BYTES", len(HELLO) + 3 * len(notice(9)))
    leave(str(directory.path), 0, [HELLO, *map(notice, range(1, 10))])
    assert left(directory) == [7, 8, 9]


def test_damaged_lines_are_left_out(directory):
    leave(str(directory.path), 0, [HELLO, notice(1), b"{torn\n", notice(2)])
    assert left(directory) == [1, 2]
    (directory.path / "last-words-0.jsonl").write_bytes(notice(1))  # of whom?
    assert left(directory) == []


def test_a_full_disk_costs_all_but_the_goodbye(directory, monkeypatch):
    real = last_words._replace

    def small_disk(path: str, data: bytes) -> None:
        if len(data) > 500:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(last_words, "_replace", small_disk)
    leave(str(directory.path), 0, [HELLO, *map(notice, range(20))])
    assert left(directory) == [19]


def test_a_directory_that_is_gone_is_no_error(tmp_path):
    leave(str(tmp_path / "none"), 0, [HELLO, notice(1)])


SCRIPT = """
import os, sys
from memdash.agent.last_words import on_exit
on_exit(lambda reason: print("failed", reason, flush=True), lambda: print("left", flush=True))
{body}
"""


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("", ["left"]),
        ("sys.exit(3)", ["left"]),
        ("raise ValueError('no')", ["failed ValueError: no", "left"]),
        ("raise KeyboardInterrupt", ["left"]),
        ("os._exit(0)", []),
        ("if os.fork() == 0: raise ValueError('in a child')\nos.wait()\nos._exit(0)", []),
    ],
)
def test_ends_that_python_tells_of(body, told):
    argv = [sys.executable, "-c", SCRIPT.format(body=body)]
    done = subprocess.run(argv, capture_output=True, text=True, env={**os.environ})
    assert done.stdout.split("\n")[:-1] == told
    assert ("Traceback" in done.stderr) == ("raise" in body)

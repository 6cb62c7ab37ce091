"""A history that was kept, and the rows after it, are the history of all rows."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memdash.store.histories import keep_history
from memdash.store.recorder import HOST_COLUMNS, RANK_COLUMNS
from memdash.store.run_directory import RunDirectory
from memdash.store.samples import SampleWriter, read_rows
from memdash.supervisor.history import History
from memdash.supervisor.keeping import KEEP_ROWS, Keeper

COLUMNS = {"host": HOST_COLUMNS, "rank-0": RANK_COLUMNS, "rank-1": RANK_COLUMNS}
FIGURE = st.one_of(st.none(), st.floats(0, 1e12))
ROW = st.tuples(st.sampled_from(sorted(COLUMNS)), st.floats(0, 1e5), st.lists(FIGURE, min_size=22, max_size=22))
KEEP, RESTART = "keep", "restart"
LIFE = st.lists(st.one_of(ROW, ROW, ROW, st.sampled_from([KEEP, RESTART])), max_size=120)


def one_row(row: dict[str, float | None]) -> dict[str, list[float]]:
    return {name: [math.nan if value is None else value] for name, value in row.items()}


def of_all_rows(directory: RunDirectory) -> list[object]:
    """Row by row, as they came."""
    history = History()
    for record in sorted(directory.samples.glob("*.rec")):
        for row in read_rows(record):
            if record.stem == "host":
                history.host(row["time_s"], row)
            else:
                history.load(record.stem, one_row(row))
    return list(history.messages())


class Life:
    """A supervisor's files and what it knows; `restart` is a kill -9 and another supervisor."""

    def __init__(self, path: Path) -> None:
        self.directory = RunDirectory(path)
        self.directory.samples.mkdir()
        self.keeper = Keeper(self.directory)
        self.writers: dict[str, SampleWriter] = {}

    def row(self, source: str, time_s: float, figures: list[float | None]) -> None:
        names = COLUMNS[source]
        values = [time_s, *figures][: len(names)]
        if source not in self.writers:
            self.writers[source] = SampleWriter(self.directory.samples / f"{source}.rec", names)
        self.writers[source].append(values)
        row = dict(zip(names, values, strict=True))
        if source == "host":
            self.keeper.history.host(time_s, row)
        else:
            self.keeper.history.load(source, one_row(row))

    def restart(self, torn: int = 0) -> None:
        for source, writer in self.writers.items():
            writer.close()
            with open(self.directory.samples / f"{source}.rec", "ab") as file:
                file.write(b"x" * torn)
        self.writers.clear()
        self.keeper = Keeper(self.directory)

    def known(self) -> list[object]:
        return sorted(self.keeper.history.messages(), key=lambda message: message.series)


@given(LIFE, st.integers(0, 55))
def test_whatever_was_kept_and_whenever_it_was_killed(life, torn):
    with tempfile.TemporaryDirectory() as path:
        run = Life(Path(path))
        for event in life:
            if event == KEEP:
                run.keeper.tick(1)
            elif event == RESTART:
                run.restart(torn)
            else:
                run.row(*event)
        run.restart(torn)
        assert run.known() == sorted(of_all_rows(run.directory), key=lambda message: message.series)


def row(number: int) -> tuple[str, float, list[float | None]]:
    return "rank-0", number * 0.3, [float(number % 97)] * 21


@pytest.fixture
def run(tmp_path: Path) -> Life:
    return Life(tmp_path)


def test_it_is_kept_as_often_as_rows_are_many(run):
    for number in range(KEEP_ROWS - 1):
        run.row(*row(number))
    assert not run.keeper.tick()
    run.row(*row(KEEP_ROWS))
    assert run.keeper.tick()
    assert not run.keeper.tick()
    assert (run.directory.samples / "rank-0.history").exists()
    assert not (run.directory.samples / "host.history").exists()


def test_what_is_kept_is_used_and_not_kept_again(run):
    for number in range(3 * KEEP_ROWS):  # wide buckets
        run.row(*row(number))
    run.keeper.finish()
    kept = run.directory.samples / "rank-0.history"
    at_first = kept.stat().st_mtime_ns
    record = run.directory.samples / "rank-0.rec"
    data = bytearray(record.read_bytes())
    data[-1000:-500] = b"\x00" * 500  # rows that are not read any more
    record.write_bytes(data)
    known = run.known()
    run.restart()
    assert run.known() == known != of_all_rows(run.directory)
    run.keeper.finish()
    assert kept.stat().st_mtime_ns == at_first


def test_one_that_cannot_be_used_is_made_anew(run):
    for number in range(100):
        run.row(*row(number))
    known = run.known()
    keep_history(run.directory.samples / "rank-0.rec", b'[["another recipe"], []]\n')
    run.restart()
    assert run.known() == known
    assert run.keeper.tick(1)
    run.restart()
    assert not run.keeper.tick(1)
    assert run.known() == known

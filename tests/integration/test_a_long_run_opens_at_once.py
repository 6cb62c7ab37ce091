"""A supervisor of a run that is over, or whose supervisor was killed, knows all that was recorded without reading it all."""

from __future__ import annotations

import os
import signal
from math import nan

from memdash import wire
from memdash.store.run_directory import RunDirectory
from memdash.store.samples import read_rows
from memdash.supervisor.history import History
from memdash.supervisor.launch import dismiss_supervisor, is_supervised, launch_supervisor
from tests.conftest import wait_until


def recorded(directory: RunDirectory) -> list[wire.SeriesHistory]:
    """From every row."""
    history = History()
    for record in directory.samples.glob("*.rec"):
        for row in read_rows(record):
            if record.stem == "host":
                history.host(row["time_s"], row)
            elif record.stem.startswith("rank-"):
                history.load(record.stem, {name: [nan if value is None else value] for name, value in row.items()})
    return by_series(history.messages())


def by_series(messages) -> list[wire.SeriesHistory]:
    return sorted(
        (message for message in messages if isinstance(message, wire.SeriesHistory)), key=lambda one: one.series
    )


async def opened(run, watch) -> list[wire.SeriesHistory]:
    """What a dashboard gets that makes a supervisor start."""
    launch_supervisor(run.directory)
    watcher = await watch(run)
    await watcher.until(lambda message: isinstance(message, wire.Backfilled), "the history")
    await watcher.client.close()
    return by_series(watcher.seen)


async def test_history_is_kept_and_true(start_run, watch):
    run = start_run()
    run.order("s" * 40)
    watcher = await watch(run)
    await watcher.state(lambda state: state.step == 40, "40 steps")
    os.kill(run.supervisor_pid(), signal.SIGKILL)  # before anything was kept
    wait_until(lambda: not is_supervised(run.directory), "the supervisor to be gone")
    launch_supervisor(run.directory)
    run.order("s" * 20 + "e")
    run.wait_for_end()
    assert dismiss_supervisor(run.directory)
    kept = run.directory.samples / "rank-0.history"
    assert kept.exists()
    assert await opened(run, watch) == recorded(run.directory)

    os.kill(run.supervisor_pid(), signal.SIGKILL)
    wait_until(lambda: not is_supervised(run.directory), "the supervisor to be gone")
    record = run.directory.samples / "rank-0.rec"
    record.write_bytes(record.read_bytes() + b"\x00" * 100)  # torn
    assert await opened(run, watch) == recorded(run.directory)

    assert dismiss_supervisor(run.directory)
    kept.write_bytes(kept.read_bytes()[:-7])
    assert await opened(run, watch) == recorded(run.directory)
    assert len(recorded(run.directory)) > 5

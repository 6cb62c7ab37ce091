"""Which run is meant when none is named: the one that is live."""

from __future__ import annotations

from memdash.errors import SupervisorNotRunning, UsageError
from memdash.locations import socket_path
from memdash.store.run_directory import RunDirectory, find_run, list_runs
from memdash.supervisor.launch import listening
from memdash.wire import FINAL_STATUSES


def live_runs() -> list[RunDirectory]:
    """Runs that go on under a supervisor that answers, newest first."""
    return [run for run in list_runs() if is_live(run)]


def is_live(directory: RunDirectory) -> bool:
    """Whether a run goes on and can be controlled."""
    state = directory.state()
    over = state is not None and state.status in FINAL_STATUSES
    return not over and listening(socket_path(directory.run_id))


def live_or_newest() -> RunDirectory:
    """The newest live run, else the newest. Raises UsageError when there is none at all."""
    return next((run for run in list_runs() if is_live(run)), None) or find_run()


def live_run() -> RunDirectory:
    """The only live run. Raises SupervisorNotRunning when there is none, UsageError when there are several."""
    runs = live_runs()
    if not runs:
        raise SupervisorNotRunning("no run is live", hint="`memdash ls` shows the runs")
    if len(runs) > 1:
        names = ", ".join(run.run_id for run in runs[:5])
        raise UsageError(f"{len(runs)} runs are live: name one of {names}")
    return runs[0]

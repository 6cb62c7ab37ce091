"""Fixtures: a real supervisor with a fake rank under it, and real dashboards' connections."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memdash import wire
from memdash.client import Client
from memdash.locations import runs_dir
from memdash.store.journal import read_journal
from memdash.store.run_directory import RunDirectory, RunRecord, create_run
from memdash.supervisor.launch import launch_supervisor
from tests.conftest import WAIT_S, wait_until
from tests.programs import fake_rank

LAUNCH = (
    "import pathlib, sys; from memdash.store.run_directory import RunDirectory; "
    "from memdash.supervisor.launch import launch_supervisor; launch_supervisor(RunDirectory(pathlib.Path(sys.argv[1])))"
)


class SupervisedRun:
    """A run whose rank does what the test says."""

    def __init__(
        self,
        tmp_path: Path,
        run_id: str,
        options: tuple[str, ...],
        argv: list[str] | None,
        restarts: int = 0,
        wall_s: float = 0,
        inside: Callable[..., list[str]] | None = None,
    ) -> None:
        self._inside = inside
        self.fifo = tmp_path / f"{run_id}.fifo"
        os.mkfifo(self.fifo)
        self._orders = os.open(self.fifo, os.O_RDWR)
        record = RunRecord(
            run_id=run_id,
            name=run_id,
            created_s=time.time(),
            argv=argv or fake_rank.command(self.fifo, *options),
            cwd=str(tmp_path),
            restarts=restarts,
            wall_s=wall_s,
        )
        self.directory: RunDirectory = create_run(record, config_json=b"{}", config_toml="", parent=runs_dir())
        self.launch()

    def launch(self) -> None:
        """Have it supervised, by a process that `inside(*argv)` starts where that is given."""
        if self._inside is None:
            launch_supervisor(self.directory)
        else:
            argv = self._inside(sys.executable, "-c", LAUNCH, str(self.directory.path))
            subprocess.run(argv, check=True, timeout=WAIT_S)

    @property
    def run_id(self) -> str:
        """Its id."""
        return self.directory.run_id

    def order(self, orders: str) -> None:
        """Tell the rank what to do, a letter each."""
        os.write(self._orders, orders.encode())

    def supervisor_pid(self) -> int:
        """From the lock file."""
        return int(self.directory.lock.read_text())

    def journal(self) -> list[str]:
        """`kind: text` of every entry."""
        return [f"{entry.kind}: {entry.text}" for entry in read_journal(self.directory.journal)]

    def wait_for_journal(self, text: str) -> None:
        """Until an entry holds `text`."""
        wait_until(lambda: any(text in line for line in self.journal()), f"{text!r} in {self.journal()}")

    def status(self) -> str:
        """From state.json."""
        state = self.directory.state()
        return state.status if state else ""

    def wait_for_end(self, timeout_s: float = WAIT_S) -> wire.RunState:
        """Until the run has ended; its last state."""
        what = f"the end of a run that is {self.status()}"
        wait_until(lambda: self.status() in wire.FINAL_STATUSES, what, timeout_s)
        state = self.directory.state()
        assert state is not None
        return state

    def kill_all(self) -> None:
        """Leave nothing behind."""
        os.close(self._orders)
        end_what_is_left(self.directory)


def end_what_is_left(directory: RunDirectory) -> None:
    """Kill the supervisor and the training process of a run, where they live."""
    if not directory.path.exists():
        return
    state = directory.state()
    for pid in (int(directory.lock.read_text()), state.pid if state else None):
        with contextlib.suppress(ProcessLookupError, TypeError):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def start_run(tmp_path: Path) -> Iterator[Callable[..., SupervisedRun]]:
    """Starts runs and kills what is left of them."""
    runs: list[SupervisedRun] = []

    def start(
        *options: str,
        run_id: str = "fake",
        argv: list[str] | None = None,
        restarts: int = 0,
        wall_s: float = 0,
        inside: Callable[..., list[str]] | None = None,
    ) -> SupervisedRun:
        runs.append(SupervisedRun(tmp_path, run_id, options, argv, restarts, wall_s, inside))
        return runs[-1]

    yield start
    for run in runs:
        run.kill_all()


class Watcher:
    """A dashboard's connection that remembers what came."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.seen: list[wire.FromSupervisor] = []

    async def until(self, wanted: Callable[[wire.FromSupervisor], bool], what: str) -> wire.FromSupervisor:
        """Receive until `wanted`; bounded."""
        import asyncio

        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    message = await self.client.receive()
                    self.seen.append(message)
                    if wanted(message):
                        return message
        except TimeoutError:
            kinds = [type(message).__name__ for message in self.seen]
            raise AssertionError(f"waited for {what}; saw {kinds}") from None

    async def state(self, wanted: Callable[[wire.RunState], bool], what: str) -> wire.RunState:
        """Receive until a state is as wanted."""
        found = await self.until(lambda message: isinstance(message, wire.RunState) and wanted(message), what)
        assert isinstance(found, wire.RunState)
        return found


@pytest.fixture
async def watch():
    """Connects dashboards and hangs up at the end."""
    watchers: list[Watcher] = []

    async def connect(run: SupervisedRun) -> Watcher:
        watchers.append(Watcher(await Client.connect(run.run_id)))
        return watchers[-1]

    yield connect
    for watcher in watchers:
        await watcher.client.close()

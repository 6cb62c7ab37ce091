"""The terminal under a dashboard vanishes, as when an SSH connection breaks: the run goes on, and a new one finds it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from memdash.store.run_directory import RunDirectory, list_runs
from tests.conftest import wait_until
from tests.integration.test_signals import REAL_S, write_job


class Terminal:
    """A command on a terminal of its own, whose master end is here."""

    def __init__(self, *arguments: str) -> None:
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            environment = {**os.environ, "TERM": "xterm-256color"}
            os.execve(sys.executable, [sys.executable, "-m", "memdash", *arguments], environment)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self._shown = b""

    def wait_for(self, text: str) -> None:
        """Until it was written; what comes is read all the while, as a terminal does."""
        deadline = time.monotonic() + REAL_S
        while text.encode() not in self._shown:
            assert time.monotonic() < deadline, self._shown[-2000:]
            if select.select([self._master], [], [], 0.1)[0]:
                self._shown += os.read(self._master, 1 << 16)

    def press(self, key: str) -> None:
        """A key."""
        os.write(self._master, key.encode())

    def hang_up(self) -> None:
        """The kernel sends SIGHUP to whoever it belonged to."""
        os.close(self._master)

    def wait(self) -> int:
        """Its exit code, negative for a signal."""
        codes: list[int] = []

        def ended() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            codes.extend([os.waitstatus_to_exitcode(status)] if pid else [])
            return bool(codes)

        wait_until(ended, "the command's end", REAL_S)
        return codes[0]

    def drain(self) -> None:
        """Read what comes until the other end is closed."""
        try:
            while os.read(self._master, 1 << 16):
                pass
        except OSError:  # how a terminal ends
            pass


@pytest.fixture
def run() -> Iterator[list[RunDirectory]]:
    """Ends what a run leaves behind."""
    runs: list[RunDirectory] = []
    yield runs
    for directory in list_runs():
        state = directory.state()
        for pid in (int(directory.lock.read_text()), state.pid if state else None):
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_the_run_goes_on_and_another_terminal_finds_it(tmp_path: Path, run: list[RunDirectory]) -> None:
    pytest.importorskip("torch")
    write_job(tmp_path)
    terminal = Terminal("run", str(tmp_path / "job.toml"))
    terminal.wait_for("● running")
    run += list_runs()
    steps = run[0].samples / "rank-0.rec"
    supervisor, trainer = int(run[0].lock.read_text()), run[0].state().pid
    terminal.hang_up()
    terminal.wait()  # there is nobody left who could read its exit code
    for _ in range(2):
        before = steps.stat().st_size
        wait_until(lambda b=before: steps.stat().st_size > b, "steps without a terminal")
    os.kill(supervisor, 0)
    assert (int(run[0].lock.read_text()), run[0].state().pid) == (supervisor, trainer)

    another = Terminal("attach", run[0].run_id)
    another.wait_for("● running")
    another.wait_for("training Toy")  # the journal of the time before
    another.press("q")
    another.drain()
    another.hang_up()
    assert another.wait() == 0
    state = run[0].state()
    assert (state.status, state.attempt, state.dropped_samples) == ("running", 0, 0)

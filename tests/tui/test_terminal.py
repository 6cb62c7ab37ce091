"""The dashboard as a process on a real terminal: where it refuses, and how it goes when the terminal goes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pyte
import pytest

from memdash.locations import socket_path
from tests.conftest import wait_until

ROOT = Path(__file__).parents[2]
SHOW = """
import sys
from memdash.errors import MemdashError
from memdash.tui.app import run_dashboard
try:
    left = run_dashboard("fake")
except MemdashError as error:
    print(f"{type(error).__name__}: {error} ({error.hint})")
    sys.exit(error.exit_code)
print("left:", left.reason)
"""


@pytest.fixture
def supervisor() -> Iterator[subprocess.Popen[bytes]]:
    """A fake supervisor that answers."""
    process = subprocess.Popen([sys.executable, "-m", "tests.tui.fake_supervisor", "fake", "--hz", "20"], cwd=ROOT)
    wait_until(lambda: socket_path("fake").exists(), "the fake supervisor's socket")
    yield process
    process.kill()
    process.wait()


class Terminal:
    """A pseudo-terminal with a dashboard in it, and what a person would see on it."""

    def __init__(self, columns: int = 100, rows: int = 30, before: str = "", **environment: str) -> None:
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", PYTHONPATH=str(ROOT), LANG="C.UTF-8", **environment)
            os.execv(sys.executable, [sys.executable, "-c", before + SHOW])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.status: int | None = None

    def read(self) -> None:
        """Take in what was written, without waiting."""
        while select.select([self.fd], [], [], 0)[0]:
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # what a pseudo-terminal says instead of end of file
                return
            self.raw += data
            for unknown in (b"\x1b[>1u", b"\x1b[<u", b"\x1b[?2026$p", b"\x1b[?2048$p"):
                data = data.replace(unknown, b"")
            with contextlib.suppress(Exception):  # pyte knows fewer sequences than terminals do
                self._stream.feed(data)
            if not data:
                return

    def shows(self, text: str) -> bool:
        """Whether a person would see it now."""
        self.read()
        return any(text in line for line in self.screen.display)

    def press(self, key: str) -> None:
        """One key."""
        os.write(self.fd, key.encode())

    def ended(self) -> bool:
        """Whether the process is gone; then `status` is its exit code, negative for a signal."""
        if self.fd >= 0:
            self.read()
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None

    def hang_up(self) -> None:
        """The window is closed."""
        os.close(self.fd)
        self.fd = -1


@pytest.fixture
def terminal(supervisor: subprocess.Popen[bytes]) -> Iterator[Terminal]:
    """A dashboard that has drawn its plots."""
    terminal = Terminal()
    wait_until(lambda: terminal.shows("running") and terminal.shows("512M┤"), "the plots")
    yield terminal
    if not terminal.ended():
        os.kill(terminal.pid, signal.SIGKILL)
        os.waitpid(terminal.pid, 0)


def test_a_person_looks_pauses_and_leaves(terminal: Terminal) -> None:
    terminal.press("p")
    wait_until(lambda: terminal.shows("● paused"), "the pause")
    terminal.press("q")
    wait_until(terminal.ended, "the end")
    assert terminal.status == 0
    assert b"left: detached" in terminal.raw
    assert b"\x1b[?1049l" in terminal.raw  # the shell's own screen is back


def test_a_person_who_wants_no_colours_sees_it_too(supervisor: subprocess.Popen[bytes]) -> None:
    terminal = Terminal(NO_COLOR="1")
    wait_until(lambda: terminal.shows("running") and terminal.shows("512M┤"), "the plots")
    terminal.press("q")
    wait_until(terminal.ended, "the end")
    assert b"left: detached" in terminal.raw


BREAKS = """
from memdash.tui.widgets.progress import ProgressLine
def draw(self, board):
    if board.state: raise ZeroDivisionError("of our own")
ProgressLine.draw = draw
"""


def test_a_dashboard_that_breaks_says_so_in_a_line_and_leaves_the_run(
    supervisor: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    terminal = Terminal(200, before=BREAKS, XDG_CACHE_HOME=str(tmp_path))
    wait_until(terminal.ended, "the end")
    assert terminal.status == 1
    shell = terminal.raw.rpartition(b"\x1b[?1049l")[2].decode()
    report = tmp_path / "memdash" / "dashboard-fake.txt"
    assert (
        f"MemdashError: the dashboard broke down (ZeroDivisionError: of our own); the traceback is in {report}" in shell
    )
    assert "the run is untouched" in shell
    assert shell.count("\n") <= 2
    assert "in draw" in report.read_text()
    assert supervisor.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_as_q_does(terminal: Terminal, number: signal.Signals) -> None:
    os.kill(terminal.pid, number)
    wait_until(terminal.ended, "the end")
    assert terminal.status == 0
    assert b"\x1b[?1049l" in terminal.raw


def test_a_closed_window_leaves_no_process_behind(terminal: Terminal) -> None:
    terminal.hang_up()
    wait_until(terminal.ended, "the end")


def test_a_terminal_that_goes_without_a_signal_leaves_no_process_behind(supervisor: subprocess.Popen[bytes]) -> None:
    master, slave = pty.openpty()  # nobody's controlling terminal: its end sends no SIGHUP
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW],
        env={**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)},
        stdin=slave,
        stdout=subprocess.DEVNULL,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    drawn = bytearray()

    def running() -> bool:
        if select.select([master], [], [], 0)[0]:
            drawn.extend(os.read(master, 65536))
        return b"running" in drawn

    try:
        wait_until(running, "the dashboard")
        os.close(master)
        assert process.wait(timeout=15) is not None
    finally:
        process.kill()
        process.wait()


def test_a_supervisor_that_comes_back_is_found(
    terminal: Terminal, supervisor: subprocess.Popen[bytes], request: pytest.FixtureRequest
) -> None:
    supervisor.kill()
    wait_until(lambda: terminal.shows("supervisor lost, reconnecting"), "the banner")
    other = subprocess.Popen([sys.executable, "-m", "tests.tui.fake_supervisor", "fake"], cwd=ROOT)
    request.addfinalizer(other.wait)
    request.addfinalizer(other.kill)
    wait_until(lambda: terminal.shows("● running"), "the new supervisor")


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"TERM": "dumb"}, "TERM='dumb'"),
        ({"TERM": "xterm", "PYTHONIOENCODING": "latin-1"}, "the plots need UTF-8"),
    ],
)
def test_a_terminal_that_cannot_is_refused(environment: dict[str, str], words: str) -> None:
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=slave,
        timeout=30,
        check=False,
    )
    os.close(master)
    os.close(slave)
    assert done.returncode == 2
    assert words in done.stdout.decode()
    assert "--headless" in done.stdout.decode()


@pytest.mark.parametrize("missing", ["stdin", "stderr"])
def test_no_terminal_is_refused(missing: str) -> None:
    master, slave = pty.openpty()
    streams = {"stdin": slave, "stderr": slave, missing: subprocess.DEVNULL}
    done = subprocess.run(
        [sys.executable, "-c", SHOW],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=streams["stdin"],
        stderr=streams["stderr"],
        stdout=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    os.close(master)
    os.close(slave)
    assert done.returncode == 2
    assert b"needs a terminal on standard input and standard error (add --headless" in done.stdout


def test_importing_the_dashboard_loads_nothing_heavy() -> None:
    code = "import sys, memdash.tui.app; print([name for name in sys.argv[1:] if name in sys.modules])"
    heavy = ["torch", "transformers", "numpy", "plotext", "psutil", "pynvml"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "[]\n"

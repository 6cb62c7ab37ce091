"""Starts a supervisor in a session of its own. Called in the process of a verb, which may end right after."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from memdash.errors import LinkError, SupervisorAlreadyRunning
from memdash.store.run_directory import RunDirectory

CONNECT_TIMEOUT_S = 2.0
DISMISS_TIMEOUT_S = 5.0
READY_TIMEOUT_S = 30.0  # imports on a cold network disk
STALE_S = 60.0  # a socket is bound a moment before somebody listens on it


def launch_supervisor(
    directory: RunDirectory, again: Sequence[str] = (), meanwhile: Callable[[], object] = lambda: None
) -> None:
    """Return when it listens; `again` are arguments for one more launch of a run that is over.

    `meanwhile` is done while it starts: a dashboard's imports take as long. Raises LinkError with its own words when it does not come up.
    """
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    argv = [sys.executable, "-P", "-m", "memdash", "supervise", "--ready-fd", str(write_end)]
    argv += [str(directory.path), *again]
    log = os.fspath(directory.supervisor_log)
    try:
        # no descriptor of the terminal may stay: a hang-up would end it
        pid = os.posix_spawn(
            sys.executable,
            argv,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )
    finally:
        os.close(write_end)
    meanwhile()
    os.waitpid(pid, 0)  # it forks at once and ends, so that the supervisor is nobody's child
    try:
        answer = _read_line(read_end)
    finally:
        os.close(read_end)
    if answer.startswith("busy"):
        raise SupervisorAlreadyRunning(f"run {directory.run_id} has a supervisor already")
    if answer != "ready":
        raise LinkError(
            f"the supervisor of {directory.run_id} did not start: {answer or 'it ended without a word'}",
            hint=f"see {directory.supervisor_log}",
        )


def is_supervised(directory: RunDirectory) -> bool:
    """Whether a supervisor holds the run's lock. Unlike a connection, asking so does not make it stay longer."""
    try:
        descriptor = os.open(directory.lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def listening(path: Path) -> bool:
    """Whether a supervisor answers on this socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONNECT_TIMEOUT_S)
        try:
            connection.connect(os.fspath(path))
        except OSError:
            return False
    return True


def clear_stale_sockets(directory: Path) -> None:
    """Remove the sockets of supervisors that were killed: nobody listens on them any more."""
    for path in directory.glob("*.sock"):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.setblocking(False)
            old = time.time() - path.stat().st_mtime > STALE_S
            if old and connection.connect_ex(os.fspath(path)) == errno.ECONNREFUSED:
                path.unlink()


def dismiss_supervisor(directory: RunDirectory) -> bool:
    """Have a supervisor that only shows a run that is over leave; whether it did so in time."""
    deadline = time.monotonic() + DISMISS_TIMEOUT_S
    with contextlib.suppress(OSError, ValueError):
        pid = int(directory.lock.read_text())
        if b"memdash" in Path(f"/proc/{pid}/cmdline").read_bytes():  # the number may be a killed one's, and given anew
            os.kill(pid, signal.SIGTERM)
    while time.monotonic() < deadline:
        with open(directory.lock, "a+b") as lock, contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.05)
    return False


def _read_line(descriptor: int) -> str:
    """The first line, within READY_TIMEOUT_S."""
    deadline, text = time.monotonic() + READY_TIMEOUT_S, b""
    while not text.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return f"it was not ready within {READY_TIMEOUT_S:.0f} s"
        data = os.read(descriptor, 4096)
        if not data:
            break
        text += data
    return text.decode(errors="replace").strip()

"""The training processes: started, watched, asked to end, made to end. Called in the supervisor's process."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from memdash.errors import MemdashError
from memdash.host.exit_status import exit_code, process_start, stat_fields

KILL_WAIT_S = 35.0  # torchrun gives its own children 30 s before it kills them
OOM_SCORE_ADJ = 500  # the kernel takes the trainer, never the supervisor: measured with 0 it took the supervisor first


class RankProcess:
    """One training process in a session of its own, started here or found alive after a supervisor's death."""

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None, pidfd: int | None = None) -> None:
        self.pid = pid
        self._child = child
        self._pidfd = pidfd
        self._kill_at_s: float | None = None

    @classmethod
    def start(cls, argv: Sequence[str], env: Mapping[str, str], cwd: str, output: int) -> RankProcess:
        """Start it with its output going to the descriptor `output`. Raises MemdashError."""
        try:
            child = subprocess.Popen(
                argv,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except OSError as error:
            raise MemdashError(f"{argv[0]} cannot be started: {error}") from None
        with contextlib.suppress(OSError):
            Path(f"/proc/{child.pid}/oom_score_adj").write_text(str(OOM_SCORE_ADJ))
        return cls(child.pid, child)

    @classmethod
    def adopt(cls, pid: int, run_id: str, started: int | None = None) -> RankProcess | None:
        """A training process of this run that is still alive; None when that pid is gone or somebody else's.

        `started` is what `process_start` said of it then: a pid may have been given to another process since.
        """
        pidfd = None
        with contextlib.suppress(OSError, AttributeError):
            pidfd = os.pidfd_open(pid)  # first of all: from here on nobody else can take its place unnoticed
        if _is_of_run(pid, run_id) and started in (None, process_start(pid)) and _alive(pid):
            return cls(pid, None, pidfd)
        if pidfd is not None:
            os.close(pidfd)
        return None

    def ended(self) -> bool:
        """Whether it is over; a child is reaped by this."""
        if self._child:
            return self._child.poll() is not None
        if self._pidfd is not None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            return bool(poll.poll(0))
        return not _alive(self.pid)

    @property
    def exit_code(self) -> int | None:
        """After `ended`: negative for a signal; None for an adopted one of which the kernel does not tell it."""
        return self._child.returncode if self._child else exit_code(self.pid, self._pidfd)

    def terminate(self) -> None:
        """Ask it to end; it is killed when it has not KILL_WAIT_S after it was asked first."""
        self._signal(signal.SIGTERM)
        self._kill_at_s = self._kill_at_s or time.monotonic() + KILL_WAIT_S

    def kill_when_due(self) -> bool:
        """Kill it if it was asked to end long enough ago; True when that was done now."""
        if self._kill_at_s is None or time.monotonic() < self._kill_at_s or self.ended():
            return False
        self._kill_at_s = None
        self._kill_group()  # it leads its own session: DataLoader workers go with it
        return True

    def clean_up(self) -> None:
        """End what it has left behind in its process group."""
        self._kill_group()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def end_orphans(leader: int, run_id: str) -> int:
    """Kill what a training process that is gone has left in its session; how many there were."""
    orphans = [pid for pid in _session(leader) if _is_of_run(pid, run_id)]
    for pid in orphans:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return len(orphans)


def _session(leader: int) -> Iterator[int]:
    for entry in Path("/proc").iterdir() if Path("/proc/self/stat").exists() else ():
        if entry.name.isdigit() and stat_fields(int(entry.name))[3:4] == [str(leader)]:
            yield int(entry.name)


def _is_of_run(pid: int, run_id: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return f"MEMDASH_RUN_ID={run_id}".encode() in environment


def _alive(pid: int) -> bool:
    return stat_fields(pid)[:1] not in ([], ["Z"])

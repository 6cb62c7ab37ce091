"""The training processes: started, watched, asked to end, made to end. Called in the supervisor's process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from memdash.errors import MemdashError

KILL_WAIT_S = 35.0  # torchrun gives its own children 30 s before it kills them
OOM_SCORE_ADJ = 500  # the kernel takes the trainer, never the supervisor: measured with 0 it took the supervisor first


class RankProcess:
    """One training process in a session of its own, started here or found alive after a supervisor's death."""

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self._child = child
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
    def adopt(cls, pid: int, run_id: str) -> RankProcess | None:
        """A training process of this run that is still alive; None when that pid is gone or somebody else's."""
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return None
        return cls(pid, None) if f"MEMDASH_RUN_ID={run_id}".encode() in environment else None

    def ended(self) -> bool:
        """Whether it is over; a child is reaped by this."""
        return self._child.poll() is not None if self._child else not _alive(self.pid)

    @property
    def exit_code(self) -> int | None:
        """After `ended`: negative for a signal; None for an adopted one, whose code only its parent could have had."""
        return self._child.returncode if self._child else None

    def terminate(self) -> None:
        """Ask it to end; it is killed when it has not after KILL_WAIT_S."""
        self._signal(signal.SIGTERM)
        self._kill_at_s = time.monotonic() + KILL_WAIT_S

    def kill_when_due(self) -> bool:
        """Kill it if it was asked to end long enough ago; True when that was done now."""
        if self._kill_at_s is None or time.monotonic() < self._kill_at_s or self.ended():
            return False
        self._kill_at_s = None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # it leads its own session: DataLoader workers go with it
        return True

    def clean_up(self) -> None:
        """End what it has left behind in its process group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"

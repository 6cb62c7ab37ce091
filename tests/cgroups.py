"""A real memory cgroup with a limit, v1 or v2, where one can be made; and a /dev/shm of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memdash.host.capacity import CgroupLevel, cgroup_levels
from tests.conftest import wait_until

ENTER = 'echo 0 > "$0/cgroup.procs" && exec "$@"'
SMALL_SHM = 'mount -t tmpfs -o size="$0" tmpfs /dev/shm && exec "$@"'


class MemoryCgroup:
    """A cgroup with a limit, and one without inside it, where the processes live."""

    def __init__(self, parent: CgroupLevel, limit_bytes: int) -> None:
        outer = parent.path / f"memdash-test-{os.getpid()}"
        outer.mkdir()
        self.level = CgroupLevel(outer, parent.version, f"{parent.name.rstrip('/')}/{outer.name}")
        self.inner = outer / "inner"
        try:
            if parent.version == 2:
                (outer / "cgroup.subtree_control").write_text("+memory")
            self.inner.mkdir()
            self.level.limit_file.write_text(str(limit_bytes))
            swap = outer / ("memory.swap.max" if parent.version == 2 else "memory.memsw.limit_in_bytes")
            with contextlib.suppress(OSError):  # without swap there is no such file
                swap.write_text("0" if parent.version == 2 else str(limit_bytes))
        except OSError:
            self.remove()
            raise

    def inside(self, *argv: str) -> list[str]:
        """A command that enters the cgroup and becomes `argv`."""
        return ["sh", "-c", ENTER, str(self.inner), *argv]

    def remove(self) -> None:
        """End what lives in it, and it."""
        for path in (self.inner, self.level.path):
            if path.is_dir():
                wait_until(lambda path=path: not _kill_all(path), f"an empty {path}")
                path.rmdir()


def _kill_all(cgroup: Path) -> list[str]:
    pids = (cgroup / "cgroup.procs").read_text().split()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    return pids


@pytest.fixture
def memory_cgroup() -> Iterator[Callable[[int], MemoryCgroup]]:
    """Makes one; skips the test where that is not possible."""
    made: list[MemoryCgroup] = []

    def make(limit_bytes: int) -> MemoryCgroup:
        why = "no memory cgroup is visible"
        levels = cgroup_levels()
        for level in [level for level in levels if level.version == 1] or levels:
            if level.version == 2 and not _hands_memory_on(level.path):
                continue
            try:
                made.append(MemoryCgroup(level, limit_bytes))
            except OSError as error:
                why = str(error)
                continue
            return made[-1]
        pytest.skip(f"a real OOM kill needs a memory cgroup of our own: {why}")

    yield make
    for cgroup in made:
        cgroup.remove()


def _hands_memory_on(path: Path) -> bool:
    try:
        return "memory" in (path / "cgroup.subtree_control").read_text().split()
    except OSError:
        return False


def with_small_shm(size: str, *argv: str) -> list[str]:
    """A command that becomes `argv` with a /dev/shm of its own; skips the test where that is not possible."""
    command = ["unshare", "--mount", "sh", "-c", SMALL_SHM, size]
    try:
        tried = subprocess.run([*command, "true"], capture_output=True, text=True)
    except FileNotFoundError as error:
        pytest.skip(f"a small /dev/shm needs a mount of our own: {error}")
    if tried.returncode:
        pytest.skip(f"a small /dev/shm needs a mount of our own: {tried.stderr.strip()}")
    return [*command, *argv]

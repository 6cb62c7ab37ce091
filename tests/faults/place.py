"""The directories, environment and processes of one chaos: nothing of a user's is touched, nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.faults.waiting import Stuck, until, waiting_for

ROOT = Path(__file__).parents[2]
DISK_MIB = 320  # a flood of 100 MiB, its rotated halves and the checkpoints; it is memory
COMPILERS = (os.environ.get("CXX") or "g++", "c++", "clang++")
VERB_TIMEOUT_S = 90.0
NOT_OURS = ("MEMDASH_SOCKET", "MEMDASH_RUN_ID", "MEMDASH_ATTEMPT", "RANK", "WORLD_SIZE", "LOCAL_RANK")


class Place:
    """`runs` is a small file system of its own where one may be mounted; then `has_own_disk`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs, self.sockets, self.notes = root / "runs", root / "s", root / "notes"
        for folder in (self.runs, self.sockets, self.notes):
            folder.mkdir(mode=0o700)
        self.has_own_disk = self._mount()
        for name in NOT_OURS:
            os.environ.pop(name, None)
        os.environ.update(
            MEMDASH_RUNS_DIR=str(self.runs),
            MEMDASH_RUNTIME_DIR=str(self.sockets),
            XDG_STATE_HOME=str(root / "state"),
            XDG_CACHE_HOME=str(root / "cache"),
            XDG_RUNTIME_DIR=str(root / "runtime"),
            OMP_NUM_THREADS="1",
            OMP_WAIT_POLICY="PASSIVE",
        )

    def memdash(self, *words: str, timeout_s: float = VERB_TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """A verb as a person types it, to its end. Raises Stuck."""
        with waiting_for(f"memdash {' '.join(words)}"):
            try:
                return subprocess.run(
                    _argv(words), capture_output=True, text=True, timeout=timeout_s, cwd=ROOT, stdin=subprocess.DEVNULL
                )
            except subprocess.TimeoutExpired:
                raise Stuck(f"memdash {' '.join(words)} took more than {timeout_s:.0f} s") from None

    def start_memdash(self, *words: str, output: Path | None = None) -> subprocess.Popen[bytes]:
        """The same, in the background."""
        with open(output or os.devnull, "ab") as file:
            return subprocess.Popen(_argv(words), stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=ROOT)

    def processes(self) -> dict[int, str]:
        """Everything alive that was started in this place, but ourselves: pid -> command line."""
        mark = f"MEMDASH_RUNTIME_DIR={self.sockets}".encode()
        found = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in Path("/proc", entry, "environ").read_bytes().split(b"\0"):
                        found[int(entry)] = Path("/proc", entry, "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def lacks(self, what: str) -> str:
        """Why a fault that needs this cannot be had here; empty when it can."""
        if what == "disk" and not self.has_own_disk:
            return "a small file system cannot be mounted here; only root may"
        if what == "compiler" and not any(map(shutil.which, COMPILERS)):
            return "no C++ compiler: the simulated device counts in Python and cannot be told to fail"
        return ""

    def socket_files(self) -> list[str]:
        """What lies where supervisors have their sockets."""
        return sorted(path.name for path in self.sockets.iterdir())

    def free_bytes(self) -> int:
        """Of the file system that the runs lie on."""
        return shutil.disk_usage(self.runs).free

    def take_disk(self, leave_bytes: int) -> None:
        """Fill the disk but for so much. Only where it is our own."""
        with open(self.runs / ".filler", "ab") as file:
            take = self.free_bytes() - leave_bytes
            with contextlib.suppress(OSError):
                if take > 0:
                    os.posix_fallocate(file.fileno(), file.tell(), take)
            if leave_bytes:
                return
            with contextlib.suppress(OSError):
                while True:
                    os.write(file.fileno(), bytes(4096))

    def give_disk_back(self) -> None:
        """There is room again."""
        (self.runs / ".filler").unlink(missing_ok=True)

    def kill_all(self) -> None:
        """Whatever still lives here."""

        def nothing_left() -> bool:
            left = self.processes()
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            return not left

        until(nothing_left, "the processes of this place to be gone", 20)

    def _mount(self) -> bool:
        mount = shutil.which("mount")
        if not mount or os.geteuid() != 0:
            return False
        argv = [mount, "-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=700", "memdash-chaos", str(self.runs)]
        return subprocess.run(argv, capture_output=True, timeout=20).returncode == 0

    def unmount(self) -> None:
        """The own disk's contents go with it, at the latest when the last process that uses it ends."""
        if self.has_own_disk:
            subprocess.run(["umount", "--lazy", str(self.runs)], capture_output=True, timeout=20, check=False)


@contextlib.contextmanager
def new_place(*, keep: bool) -> Iterator[Place]:
    """A place, and at the end no process, no mount and, unless it is kept, no file of it."""
    place = Place(Path(tempfile.mkdtemp(prefix="md-chaos-", dir="/tmp")))  # short: a socket's path has a limit
    try:
        yield place
    finally:
        try:
            place.kill_all()
            if keep and place.has_own_disk:
                place.give_disk_back()
                shutil.copytree(place.runs, place.root / "kept", symlinks=True)
        finally:
            place.unmount()
            if not keep:
                shutil.rmtree(place.root, ignore_errors=True)


def _argv(words: tuple[str, ...]) -> list[str]:
    return [sys.executable, "-m", "memdash", *words]

"""A real training under a real supervisor, and what its owner may do: look, control, bring it back to life."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from memdash import wire
from memdash.checkpoints import Checkpoint, complete
from memdash.errors import ExitCode
from memdash.locations import socket_path
from memdash.store.journal import read_journal
from memdash.store.run_directory import RunDirectory, find_run
from memdash.supervisor.launch import is_supervised, listening
from tests.faults import ledger
from tests.faults.place import ROOT, Place
from tests.faults.waiting import Stuck, until

START_S = 90.0  # importing torch on a busy machine
MEND_S = 150.0
SAVE_S = 3.0  # two intervals between saves, or the time that a verb takes to ask for one
SAVE_EVERY = 40
CONFIG = f"""
[run]
name = "chaos"
seed = 11
[task]
name = "chaos_task:reader"
options = {{ folder = "FOLDER", examples = 4000, held_out = 24, width = 48, layers = 2 }}
[train]
global_batch = 16
micro_batch = 4
max_steps = 1000000
learning_rate = 5e-4
warmup_steps = 20
schedule = "constant"
eval_every = 60
grow_after = 25
threads = 1
[device]
kind = "simulated"
capacity = "28MiB"
[checkpoint]
every_steps = {SAVE_EVERY}
at_end = "full"
[on_failure]
restart = 1000
"""
NUM_EXAMPLES, MICRO_BATCH = 4000, 4
MAX_STEPS = 5000  # trained much longer it knows the examples by heart, and then rounding errors grow without bound


class Training:
    """One run of CONFIG."""

    def __init__(self, place: Place, name: str, steps: int | None = None) -> None:
        self.place = place
        self.name = name
        config = place.root / "chaos.toml"
        if not config.exists():
            shutil.copy(ROOT / "tests" / "programs" / "chaos_task.py", place.root)
            config.write_text(CONFIG.replace("FOLDER", str(place.notes)))
        sets = ["--set", f"run.name={name}"]
        if steps is not None:
            sets += ["--set", f"train.max_steps={steps}"]
        done = place.memdash("run", str(config), "--detach", *sets)
        if done.returncode != ExitCode.OK:
            raise Stuck(f"`memdash run` exited with {done.returncode}: {done.stderr}")
        self.directory: RunDirectory = find_run(done.stdout.strip())
        self.run_id = self.directory.run_id
        self.steps = steps
        self.ledger = place.notes / f"ledger-{self.run_id}.jsonl"
        self._orders = place.notes / f"orders-{self.run_id}.json"
        self.num_resumes = 0

    # ---- look ----

    def step(self) -> int:
        """The newest update, from the training process itself."""
        return ledger.last_step(self.ledger)

    def state(self) -> wire.RunState | None:
        """As it was saved last."""
        return self.directory.state()

    def status(self) -> str:
        """As it was saved last."""
        state = self.state()
        return state.status if state else ""

    def journal(self) -> list[wire.JournalEntry]:
        """Every whole line."""
        return read_journal(self.directory.journal)

    def last_entry(self) -> int:
        """The number of the journal's last entry."""
        return max((entry.seq for entry in read_journal(self.directory.journal, last=5)), default=0)

    def trainer(self) -> int | None:
        """The pid of the training process, found without memdash."""
        return self._pid("-m runner ")

    def supervisor(self) -> int | None:
        """Its pid, found without memdash."""
        return self._pid("memdash supervise ")

    def is_served(self) -> bool:
        """Whether there is a supervisor that can be reached."""
        return is_supervised(self.directory) and listening(self.socket)

    @property
    def socket(self) -> Path:
        """Of its supervisor."""
        return socket_path(self.run_id)

    def full_checkpoints(self) -> list[Checkpoint]:
        """Newest first."""
        return [found for found in complete(self.directory.checkpoints) if found.kind == "full"]

    def is_finished(self) -> bool:
        """Whether it has come to its natural end."""
        return self.status() == "finished"

    def _pid(self, words: str) -> int | None:
        found = [pid for pid, line in self.place.processes().items() if words in line and self.run_id in line]
        return found[0] if found else None

    # ---- act ----

    def order(self, **order: int) -> None:
        """Have the task misbehave; returns when it has taken the order."""
        temporary = self._orders.with_suffix(".new")
        temporary.write_text(json.dumps(order))
        os.replace(temporary, self._orders)
        until(lambda: not self._orders.exists(), f"the task to take {order}", START_S)

    def verb(self, name: str, *words: str) -> int:
        """A verb on this run; its exit code."""
        return self.place.memdash(name, self.run_id, *words).returncode

    def kill(self, pid: int | None, number: int = signal.SIGKILL) -> None:
        """A signal to one of its processes; one that is gone already is no matter."""
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill_supervisor(self) -> None:
        """kill -9, and wait until it is gone. A viewer may bring a new one at once."""
        pid = self.supervisor()
        self.kill(pid)
        until(lambda: pid not in self.place.processes(), "the supervisor to be gone", 20)

    @contextlib.contextmanager
    def without_supervisor(self) -> Iterator[None]:
        """Nobody supervises it in this scope: we hold the lock that a new supervisor would need."""
        with open(self.directory.lock, "a+b") as lock:

            def locked() -> bool:
                self.kill(self.supervisor())
                with contextlib.suppress(BlockingIOError):
                    flock(lock, LOCK_EX | LOCK_NB)
                    return True
                return False

            until(locked, "the supervisor's lock", 20)
            yield

    def wait_for_progress(self, updates: int = 2) -> None:
        """Until it has trained on, or is finished. Going back to a checkpoint and on from there is progress too."""
        begin = self._ledger_bytes()
        lines = updates * 60  # a line is longer than this

        def trained() -> bool:
            return self._ledger_bytes() >= begin + lines or self.is_finished()

        until(trained, f"{self.run_id} to train on", MEND_S)

    def remove(self) -> int:
        """`memdash rm`; its exit code."""
        return self.place.memdash("rm", self.run_id).returncode

    def wait_for_save(self) -> None:
        """Until a checkpoint is being written; not for ever, since one may be quicker than we look."""
        end_s = time.monotonic() + SAVE_S
        while time.monotonic() < end_s:
            if any(path.name.startswith(".step-") for path in self.directory.checkpoints.iterdir()):
                return

    def _ledger_bytes(self) -> int:
        return self.ledger.stat().st_size if self.ledger.exists() else 0

    def bring_supervisor(self) -> None:
        """As a person who comes back: `memdash attach`, which is killed once it has served."""
        if self.is_served():
            return
        viewer = self.place.start_memdash("attach", self.run_id, "--headless")
        try:
            until(self.is_served, "a new supervisor", START_S)
        finally:
            viewer.kill()
            viewer.wait()

    def mend(self) -> None:
        """Whatever was done to it: have it supervised and training, or finished. Raises Stuck."""
        deadline_s = time.monotonic() + MEND_S
        begin = self._ledger_bytes()
        last = ""
        while time.monotonic() < deadline_s:
            status = self.status()
            if status == "finished":
                return
            if status in wire.FINAL_STATUSES:
                last = self._resume()
            elif not self.is_served():
                self.bring_supervisor()
            elif status in ("pausing", "paused"):
                self.verb("resume")
            with contextlib.suppress(Stuck):
                until(lambda was=status: self._ledger_bytes() > begin or self.status() != was, "life", 3)
            if self._ledger_bytes() > begin and self.status() in ("running", "starting"):
                return
        raise Stuck(f"{self.run_id} could not be brought back in {MEND_S:.0f} s: it is {self.status()}{last}")

    def _resume(self) -> str:
        """`memdash run --resume`; what it said when it refused."""
        done = self.place.memdash("run", "--resume", self.run_id, "--detach")
        self.num_resumes += done.returncode == ExitCode.OK
        return "" if done.returncode == ExitCode.OK else f"; `run --resume` said: {done.stderr.strip()}"

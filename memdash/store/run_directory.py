"""The directory of one run: what lies where, how it is made, found and listed.

run.json          what the run is: id, name, what is started; changed by `--set` on a resume
config.json       the resolved config; config.toml is the user's file as it was
plan.json         what was estimated before the start; not there where nobody planned
state.json        the last RunState, replaced whole
process.json      who the training process is, for a supervisor that did not start it
last-words-*      what a rank that has ended could not be sure to have said; gone once it is taken in
states.jsonl      the RunState at the moments when something other than a sample had changed it; append-only
journal.jsonl     commands, acks, state changes, alerts; append-only
samples/          one record file per source: host, rank 0, rank 1, ...; beside each, what was made of its rows
output.log        what the training process printed
supervisor.log    what the supervisor printed; empty when all is well
checkpoints/      written by the training process
memory-snapshots/ torch's own, when they were asked for; memdash never reads them
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from memdash import wire
from memdash.config import GuardSection
from memdash.errors import RecordCorrupt, StoreError, UsageError
from memdash.locations import check_run_id, runs_dir


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is; the supervisor starts exactly this."""

    run_id: str
    name: str
    created_s: float
    argv: list[str]
    """The training process; its environment gets MEMDASH_SOCKET, MEMDASH_RUN_ID, MEMDASH_ATTEMPT, MEMDASH_RUN_DIR, MEMDASH_MICRO_BATCH."""
    own_command: bool = False
    """Whether that is a program of the user's: it is given no arguments beside its own, and its exit codes are its own."""
    cwd: str
    env: dict[str, str] = {}
    world_size: int = 1
    restarts: int = 0
    """Further attempts that the supervisor may launch by itself when one has failed."""
    wall_s: float = 0.0
    """Seconds that an attempt may take, pauses left out; 0 = no limit."""
    host_budget_bytes: int = 0
    """Host memory that the training process and its children may use; 0 = whatever there is."""
    exact_peaks: bool = True
    """Whether their high-water marks are read, and so reset."""
    guard: GuardSection = GuardSection()
    """What is done about a forecast."""
    memdash_version: str = ""


@dataclass(frozen=True)
class RunDirectory:
    """Paths and small files of one run."""

    path: Path

    @property
    def run_id(self) -> str:
        """The directory's name is the run's id."""
        return self.path.name

    @property
    def journal(self) -> Path:
        """Append-only JSONL."""
        return self.path / "journal.jsonl"

    @property
    def states(self) -> Path:
        """Append-only JSONL."""
        return self.path / "states.jsonl"

    @property
    def coming(self) -> Path:
        """Append-only JSONL: the orders of examples to come, as ranks tell them."""
        return self.path / "coming.jsonl"

    @property
    def output(self) -> Path:
        """What the training process printed."""
        return self.path / "output.log"

    @property
    def supervisor_log(self) -> Path:
        """What the supervisor itself printed."""
        return self.path / "supervisor.log"

    @property
    def lock(self) -> Path:
        """Held by the one supervisor of this run."""
        return self.path / "supervisor.lock"

    @property
    def samples(self) -> Path:
        """Record files."""
        return self.path / "samples"

    @property
    def checkpoints(self) -> Path:
        """Where the training process saves."""
        return self.path / "checkpoints"

    def record(self) -> RunRecord:
        """What the run is. Raises RecordCorrupt."""
        return _read(self.path / "run.json", RunRecord)

    def state(self) -> wire.RunState | None:
        """The last state that was written; None before the first."""
        path = self.path / "state.json"
        return _read(path, wire.RunState) if path.exists() else None

    def plan(self) -> wire.RunPlan | None:
        """What was estimated before the start; None where nobody did."""
        path = self.path / "plan.json"
        return _read(path, wire.RunPlan) if path.exists() else None

    def write_plan(self, plan: wire.RunPlan) -> None:
        """Beside what it is a plan of. Raises OSError."""
        replace_file(self.path / "plan.json", msgspec.json.format(msgspec.json.encode(plan)))

    def replace_record(self, record: RunRecord) -> None:
        """What the next attempt is started as. Raises OSError."""
        replace_file(self.path / "run.json", msgspec.json.format(msgspec.json.encode(record)))

    def replace_config(self, config_json: bytes, attempt: int) -> None:
        """Another config for the next attempt; the one before is kept as `config-ATTEMPT.json`. Raises OSError."""
        os.replace(self.path / "config.json", self.path / f"config-{attempt}.json")
        replace_file(self.path / "config.json", config_json)

    def write_state(self, state: wire.RunState) -> None:
        """Replace the last state. Raises OSError."""
        replace_file(self.path / "state.json", msgspec.json.encode(state))


def create_run(record: RunRecord, *, config_json: bytes, config_toml: str, parent: Path) -> RunDirectory:
    """Make a run's directory, linked from the runs directory when it lies elsewhere. Raises UsageError."""
    check_run_id(record.run_id)
    registry = runs_dir()
    path = parent.absolute() / record.run_id
    try:
        registry.mkdir(parents=True, exist_ok=True)
        path.mkdir(parents=True, mode=0o700)
        if path.parent != registry:
            link = registry / record.run_id
            link.unlink(missing_ok=True)
            link.symlink_to(path)
        directory = RunDirectory(path)
        directory.samples.mkdir()
        directory.checkpoints.mkdir()
        replace_file(path / "config.json", config_json)
        replace_file(path / "config.toml", config_toml.encode())
        directory.replace_record(record)
    except OSError as error:
        raise UsageError(
            f"cannot make the run directory {path}: {error}", hint="set run.dir or MEMDASH_RUNS_DIR"
        ) from None
    return directory


def new_run_id(name: str, now_s: float | None = None) -> str:
    """`demo` -> `demo-1122-093015`, made distinct from the runs that exist."""
    base = "".join(char if char.isalnum() or char in "._-" else "-" for char in name).strip(".-_")[:40] or "run"
    stamp = time.strftime("%m%d-%H%M%S", time.localtime(now_s))
    run_id, count = f"{base}-{stamp}", 2
    while os.path.lexists(runs_dir() / run_id):
        run_id, count = f"{base}-{stamp}-{count}", count + 1
    return run_id


def find_run(text: str | None = None) -> RunDirectory:
    """The run with this id, the only one whose id starts so, or (None) the newest. Raises UsageError."""
    runs = list_runs()
    if text is None:
        if not runs:
            raise UsageError(f"there are no runs in {runs_dir()}", hint="start one: memdash run config.toml")
        return runs[0]
    if os.sep in text:
        path = Path(text).expanduser().absolute()
        if (path / "run.json").exists():
            return RunDirectory(path.resolve())
        raise UsageError(f"{text} is not a run directory: it has no run.json")
    matches = [run for run in runs if run.run_id == text] or [run for run in runs if run.run_id.startswith(text)]
    if not matches:
        raise UsageError(f"there is no run {text!r}", hint="`memdash ls` shows the runs")
    if len(matches) > 1:
        names = ", ".join(run.run_id for run in matches[:4])
        raise UsageError(f"{text!r} could be {names}", hint="type more of the id")
    return matches[0]


def list_runs() -> list[RunDirectory]:
    """Every run with a record, newest first."""
    registry = runs_dir()
    if not registry.is_dir():
        return []
    runs = [path for path in registry.iterdir() if (path / "run.json").is_file()]
    runs.sort(key=_last_change_ns, reverse=True)
    return [RunDirectory(path.resolve()) for path in runs]


def _last_change_ns(path: Path) -> int:
    """When the run last said something, so that one that was resumed counts as new."""
    state = path / "state.json"
    return (state if state.exists() else path / "run.json").stat().st_mtime_ns


def remove_run(directory: RunDirectory) -> None:
    """Delete a run that could not be started."""
    shutil.rmtree(directory.path, ignore_errors=True)
    link = runs_dir() / directory.run_id
    if link.is_symlink():
        link.unlink()


def replace_file(path: Path, data: bytes) -> None:
    """Write a small file so that a reader sees the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


T = TypeVar("T")


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error}") from None
    except msgspec.MsgspecError as error:
        raise RecordCorrupt(f"{path} is damaged: {error}") from None

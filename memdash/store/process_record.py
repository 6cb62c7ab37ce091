"""process.json: the training process that goes on, as a supervisor must know it that did not start it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from memdash.store.run_directory import RunDirectory, replace_file


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Who it is, and what stood in the kernel's counters when it was started."""

    attempt: int
    pid: int
    started: int | None
    """Clock ticks from the machine's start to the process's: with the pid, what no other process has."""
    boot_id: str
    """Of the machine's start; all other figures are void after the next one."""
    supervisor_pid: int
    output_bytes: int
    """Where its output begins in output.log."""
    cgroups: list[tuple[str, int, str]] = []
    """Path, version and name of its memory cgroups, the leaf first."""
    counts: dict[str, int] = {}
    log_number: int | None = None
    kills_together: str = ""
    """The cgroup of which one OOM ends everything, the supervisor too; empty for none."""


def write_process(directory: RunDirectory, record: ProcessRecord) -> None:
    """Replace the record. Raises OSError."""
    replace_file(_path(directory), msgspec.json.encode(record))


def read_process(directory: RunDirectory, attempt: int) -> ProcessRecord | None:
    """The record of this attempt's process; None when there is none that can be read."""
    try:
        record = msgspec.json.decode(_path(directory).read_bytes(), type=ProcessRecord)
    except (OSError, msgspec.MsgspecError):
        return None
    return record if record.attempt == attempt else None


def last_seen_s(directory: RunDirectory) -> float:
    """When a supervisor has last written anything about the run."""
    files = (
        directory.path / "run.json",
        directory.path / "state.json",
        directory.journal,
        directory.samples / "host.rec",
    )
    return max((path.stat().st_mtime for path in files if path.exists()), default=0.0)


def clear_leftovers(directory: RunDirectory) -> None:
    """Remove files that a writer has left half written, because it was killed."""
    for path in directory.path.glob(".*.tmp-*"):
        pid = path.name.rpartition("-")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            path.unlink(missing_ok=True)


def boot_id() -> str:
    """What is different after each start of the machine; empty where there is no such thing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _path(directory: RunDirectory) -> Path:
    return directory.path / "process.json"

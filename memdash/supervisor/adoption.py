"""What a new supervisor finds of an attempt that another one has started: the process, or how it went without a watcher."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field

import msgspec

from memdash import wire
from memdash.host.oom_evidence import OomBaseline, OomWatch
from memdash.store.last_words import LastWords, read_last_words
from memdash.store.process_record import ProcessRecord, boot_id, last_seen_s, read_process, write_process
from memdash.store.run_directory import RunDirectory
from memdash.supervisor.ranks import RankProcess, end_orphans
from memdash.units import format_duration


@dataclass
class Found:
    """An attempt that was not over when its supervisor was last heard of."""

    rank: RankProcess | None
    """None when it has ended."""
    oom: OomWatch
    ended_s: float
    """When it was last seen, if it has ended."""
    output_bytes: int = 0
    """Where its output begins in output.log."""
    unseen: str = ""
    """When it ended, for the verdict."""
    words: list[LastWords] = field(default_factory=list)
    """What its ranks have left on disk."""
    story: list[tuple[wire.Level, str]] = field(default_factory=list)
    """For the journal."""


def find(directory: RunDirectory, state: wire.RunState) -> Found:
    """The process alive, or what is left of it; kills what it has left behind, and takes its place in process.json."""
    record = read_process(directory, state.attempt)
    if record is not None and record.boot_id != boot_id():
        return _after_a_reboot(directory, record)
    seen_s = last_seen_s(directory)
    rank = None
    if state.pid:
        rank = RankProcess.adopt(state.pid, directory.run_id, record.started if record else None)
    found = Found(rank, _watch(record), seen_s, record.output_bytes if record else 0)
    gap = f"nobody watched for {format_duration(time.time() - seen_s)}, from {_clock(seen_s)}"
    found.story.append(("warning", f"{_end_of_supervisor(record, found.oom)}; {gap}"))
    if rank is not None:
        found.story.append(("info", f"a new supervisor has adopted pid {rank.pid}, which trains on"))
        if record is not None:
            with contextlib.suppress(OSError):
                write_process(directory, msgspec.structs.replace(record, supervisor_pid=os.getpid()))
        return found
    if state.pid and (orphans := end_orphans(state.pid, directory.run_id)):
        found.story.append(("warning", f"what it had left behind was ended: {orphans} processes"))
    found.words = list(read_last_words(directory, state.attempt))
    found.ended_s = max([seen_s, *(words.written_s for words in found.words)])
    found.unseen = f"it ended between {_clock(seen_s)} and {_clock(time.time())}, when no supervisor lived"
    if found.words:
        found.unseen = f"it ended by itself at {_clock(found.ended_s)}, when no supervisor lived, and did not say how"
    if record is not None and record.kills_together:
        found.unseen += f" (one OOM kill in {record.kills_together} ends the supervisor, too)"
    return found


def _after_a_reboot(directory: RunDirectory, record: ProcessRecord) -> Found:
    seen_s = last_seen_s(directory)
    text = f"the machine was restarted while it ran; it was last seen at {_clock(seen_s)}"
    return Found(None, _watch(None), seen_s, record.output_bytes, text)


def _watch(record: ProcessRecord | None) -> OomWatch:
    """What has been counted since the process was started, whoever did that."""
    if record is None:
        return OomWatch(OomBaseline([], {}, None))
    return OomWatch(OomBaseline(record.cgroups, record.counts, record.log_number))


def _end_of_supervisor(record: ProcessRecord | None, oom: OomWatch) -> str:
    if record is None:
        return "the supervisor before is gone"
    killed = any(kill.pid == record.supervisor_pid for kill in oom.evidence().log or ())
    end = "was killed by the kernel's OOM killer" if killed else "is gone without a word"
    return f"the supervisor before, pid {record.supervisor_pid}, {end}"


def _clock(time_s: float) -> str:
    """The time of day; the date as well when it was not today."""
    then = time.localtime(time_s)
    today = time.strftime("%F") == time.strftime("%F", then)
    return time.strftime("%T" if today else "%F %T", then)

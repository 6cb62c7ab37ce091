"""Keeps a run's directory within `[budget] disk`: what goes to make room for a new checkpoint, and what never goes.

The whole directory counts, the record and the output included, but only checkpoints are ever removed for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from memdash.agent.session import Session
from memdash.checkpoints import Checkpoint, complete, verify
from memdash.config import CheckpointSection
from memdash.errors import CheckpointIncomplete, StoreError, UsageError
from memdash.units import format_bytes, parse_bytes
from runner.checkpoint import DISK_MARGIN, CheckpointStore
from runner.say import say

ROOM_FOR = 2  # full checkpoints: a new one is written before an old one is removed
MANIFEST_BYTES = 16 << 10  # what is written after the size of a checkpoint is known


class DiskBudget:
    """Makes room before a checkpoint is written and again, its true size known, before it is committed."""

    def __init__(self, text: str, run_dir: Path, store: CheckpointStore, session: Session) -> None:
        self._text = text
        self._limit_bytes = parse_bytes(text)
        self._run_dir = run_dir
        self._store = store
        self._session = session
        self._good: set[Path] = set()

    def at_start(self, config: CheckpointSection, full_bytes: int, light_bytes: int) -> None:
        """Say what the schedule will come to. Raises UsageError when an old and a new full one do not fit together."""
        if self._limit_bytes < ROOM_FOR * full_bytes:
            need, one = format_bytes(ROOM_FOR * full_bytes), format_bytes(full_bytes)
            text = f"budget.disk = {self._text!r} is too small: a full checkpoint takes {one}, and a new one is written"
            raise UsageError(f"{text} before the old one is removed", hint=f"it takes at least {need}")
        most_bytes = schedule_bytes(config, full_bytes, light_bytes)
        text = f"{in_words(config, full_bytes, most_bytes)} of the disk budget of {self._text}"
        if most_bytes > self._limit_bytes:
            text += "; that is more than all of it, so older ones will be removed sooner"
        self._say(text, "warning" if most_bytes > self._limit_bytes else "info")

    def make_room(
        self, need_bytes: int, what: str, *, step: int, best: Path | None, staging: Path | None = None
    ) -> None:
        """Remove as few checkpoints as will do, and none when that would not do. Raises StoreError then.

        `what` is wanted at `step` and lies in `staging` already, when its true size is known; `best` is the best so far.
        """
        limit_bytes = self._limit_bytes - need_bytes
        over_bytes = self._used_bytes(staging) - limit_bytes
        if over_bytes <= 0:
            return
        found = complete(self._store.folder)
        never = never_removed(found, step, best, self._is_good)
        if doomed := fewest(may_go(found, never), over_bytes):
            self._remove(doomed, what)
        used_bytes = self._used_bytes(staging)
        if used_bytes <= limit_bytes:
            return
        asked = sum(checkpoint.reason == "command" for checkpoint in found)
        raise StoreError(
            f"the disk budget of {self._text} has no room for {what}: it needs {format_bytes(need_bytes)} besides the "
            f"{format_bytes(used_bytes)} in use, and for it the newest full checkpoint, the best one and {asked} that were "
            f"asked for by hand are never removed; raise budget.disk, or delete some in {self._store.folder}"
        )

    def _remove(self, doomed: Sequence[Checkpoint], what: str) -> None:
        names = ", ".join(f"{old.path.name} ({old.reason})" for old in doomed)
        freed = format_bytes(sum(old.size_bytes for old in doomed))
        ordinary = all(old.reason == "schedule" for old in doomed)
        text = f"the disk budget of {self._text} has no room for {what}: {names} made way, {freed}"
        for note in self._store.remove(doomed):
            text, ordinary = f"{text}; {note}", False
        self._say(text, "info" if ordinary else "warning")

    def trust(self, checkpoint: Checkpoint) -> None:
        """It was written just now: its hashes need not be checked before an older one goes."""
        self._good.add(checkpoint.path)

    def _used_bytes(self, staging: Path | None) -> int:
        """In the run's directory, without what is being staged."""
        return directory_bytes(self._run_dir) - (directory_bytes(staging) if staging else 0)

    def _is_good(self, checkpoint: Checkpoint) -> bool:
        """Every hash is right; found out once."""
        if checkpoint.path not in self._good:
            try:
                verify(checkpoint.path)
            except CheckpointIncomplete:
                return False
            self._good.add(checkpoint.path)
        return True

    def _say(self, text: str, level: str) -> None:
        self._session.notice(text, level=level)  # type: ignore[arg-type]
        say(text)


def expected_bytes(need_bytes: int, before: Sequence[Checkpoint]) -> int:
    """What a checkpoint will take: its tensors with a margin, or as much as the last one of its kind, when that is more."""
    return max([round(need_bytes * DISK_MARGIN), *(checkpoint.size_bytes for checkpoint in before[:1])])


def schedule_bytes(config: CheckpointSection, full_bytes: int, light_bytes: int) -> int:
    """The most that the config's own checkpoints take at one moment: all that are kept, and the one being written."""
    scheduled, best = bool(_schedule(config)), bool(config.keep_best)
    at_end = {"none": 0, "light": light_bytes, "full": full_bytes}[config.at_end]
    kept = config.keep_last * full_bytes * scheduled + light_bytes * best
    return kept + max(full_bytes * scheduled, light_bytes * best, at_end)


def in_words(config: CheckpointSection, full_bytes: int, most_bytes: int) -> str:
    """`checkpoints of 288 MiB every 200 steps, keep_last 2: at most 864 MiB`."""
    size, schedule = format_bytes(full_bytes), _schedule(config)
    if not schedule:
        return f"no full checkpoints by schedule; one that is asked for takes {size}"
    when = " and ".join(schedule)
    return f"checkpoints of {size} {when}, keep_last {config.keep_last}: at most {format_bytes(most_bytes)}"


def _schedule(config: CheckpointSection) -> list[str]:
    steps, minutes = config.every_steps, config.every_minutes
    return [
        *([f"every {steps} steps"] if steps else []),
        *([f"every {minutes:g} minutes"] if minutes else []),
        *(["every epoch"] if config.every_epoch else []),
    ]


def never_removed(
    found: Sequence[Checkpoint], step: int, best: Path | None, is_good: Callable[[Checkpoint], bool]
) -> set[Path]:
    """What stays whatever the budget says; `found` is newest first.

    Those that a person asked for, the best, the newest good full one, and the newest good full one that is not of this
    training's future: a run may have been resumed from an older one. Without a full one the newest good one of any kind.
    """
    kept = {checkpoint.path for checkpoint in found if checkpoint.reason == "command" or checkpoint.path == best}
    full = [checkpoint for checkpoint in found if checkpoint.kind == "full"]
    for group in (full or found, [checkpoint for checkpoint in full if checkpoint.step <= step]):
        for checkpoint in group:
            kept.add(checkpoint.path)
            if is_good(checkpoint):
                break
    return kept


def may_go(found: Sequence[Checkpoint], never: Collection[Path]) -> list[Checkpoint]:
    """The rest, the least missed first: full ones by schedule, then other full ones, then light ones; the oldest first."""
    rest = [checkpoint for checkpoint in reversed(found) if checkpoint.path not in never]
    return sorted(rest, key=lambda checkpoint: (checkpoint.kind == "light", checkpoint.reason != "schedule"))


def fewest(candidates: Sequence[Checkpoint], over_bytes: int) -> list[Checkpoint]:
    """The first of them that come to so many bytes; nothing when all of them do not."""
    freed = 0
    for count, checkpoint in enumerate(candidates, start=1):
        freed += checkpoint.size_bytes
        if freed >= over_bytes:
            return list(candidates[:count])
    return []


def directory_bytes(path: Path) -> int:
    """Sizes of all files in it; what vanishes meanwhile counts nothing."""
    total = 0
    for folder, _folders, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:
                continue
    return total

"""When a run saves: asked to, by the schedule, the best so far, at the end, out of memory. A failed save ends no training."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from memdash.agent.session import Session
from memdash.checkpoints import Checkpoint, complete
from memdash.config import CheckpointSection
from memdash.errors import CheckpointIncomplete, MemdashError
from memdash.units import format_bytes, format_duration
from memdash.wire import CheckpointKind
from runner.checkpoint import DISK_MARGIN, CheckpointStore, Reason, Staging
from runner.disk_budget import MANIFEST_BYTES, ROOM_FOR, DiskBudget, directory_bytes, expected_bytes
from runner.evaluation import Evaluation
from runner.oom import OutOfMemoryStop
from runner.patience import is_better
from runner.randomness import RngState
from runner.say import say
from runner.step import GroupStep
from runner.tasks.protocol import Task
from runner.training_state import TrainingState, read_training

PRECISIONS = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
RETRY_S, MAX_RETRY_S = 60.0, 3600.0  # after a scheduled save has failed; doubled each time


class Saving:
    """Writes checkpoints of the last committed step and keeps the best and the newest of them."""

    def __init__(
        self,
        config: CheckpointSection,
        session: Session,
        state: TrainingState,
        step: GroupStep,
        evaluation: Evaluation,
        task: Task,
        store: CheckpointStore,
        facts: dict[str, Any],
        disk: DiskBudget | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._session = session
        self._state = state
        self._step = step
        self._evaluation = evaluation
        self._task = task
        self._store = store
        self._facts = facts
        self._disk = disk
        self._clock = clock
        self._saved_s = self._trained_s()
        self._failures = 0
        self._retry_s: float | None = None
        self._best = self._best_on_disk()
        self._warned = False
        self._newest: Checkpoint | None = None

    @property
    def saved_now(self) -> str:
        """The full checkpoint of the last committed step that this process has saved; empty when there is none."""
        newest = self._newest
        return newest.path.name if newest and newest.step == self._state.progress.step else ""

    def save(self, kind: CheckpointKind, reason: Reason, **more: Any) -> str:
        """Write a checkpoint of the last committed step; what was done, in words. Raises MemdashError, OSError."""
        began_s = time.monotonic()
        state = self._state
        with state.device.host():
            # An evaluation in progress has drawn random numbers that it will put back.
            rng = self._evaluation.rng_before or RngState.capture()
        step = self._step
        facts = {**self._facts, "micro_batch": step.split.micro_batch, "growth": step.growth.save()}
        precision = PRECISIONS[self._config.light_precision] if kind == "light" else None

        def fill(staging: Staging) -> None:
            with state.device.host():
                self._task.save_files(state.model, staging.path)
            state.write(staging, kind, rng, facts | more, precision)
            self._make_room(kind, directory_bytes(staging.path) + MANIFEST_BYTES, staging.path)

        with self._session.phase("saving"):
            need_bytes = state.need_bytes(kind, precision)
            self._make_room(kind, self._expected_bytes(kind, need_bytes))
            saved = self._store.save(kind, state.progress.step, reason, need_bytes, fill)
        self._session.checkpoint_saved(kind, str(saved.path), saved.size_bytes, time.monotonic() - began_s, reason)
        if self._disk:
            self._disk.trust(saved)
        if kind == "full":
            self._saved_s, self._failures, self._retry_s = self._trained_s(), 0, None
            self._newest = saved
            self._warn(self._store.remove_old(saved))
        elif reason == "best":
            beaten = [old for old in self._bests() if old != saved.path]
            self._warn(self._store.remove([old for old in complete(self._store.folder) if old.path in beaten]))
        return f"{kind} checkpoint of {format_bytes(saved.size_bytes)} at {saved.path.parent.name}/{saved.path.name}"

    # ---- without being asked ----

    def after_step(self, *, last: bool) -> None:
        """What the schedule wants; after the last step only when no full one is saved at the end anyway."""
        if last and self._config.at_end == "full":
            return
        if self._retry_s is not None:
            is_due = self._trained_s() >= self._retry_s
        else:
            is_due = self._is_due()
        if is_due and not self._try("full", "schedule"):
            # A copy of the model a step, only to find the disk still full, would cost more than it could save.
            wait_s = min(RETRY_S * 2**self._failures, MAX_RETRY_S)
            self._failures += 1
            self._retry_s = self._trained_s() + wait_s
            self._session.notice(f"the checkpoint is tried again after {format_duration(wait_s)} of training")

    def after_evaluation(self) -> None:
        """Keep the best one by the config's metric, as a light checkpoint."""
        name, metrics = self._config.keep_best, self._evaluation.metrics
        if not name or not metrics:
            return
        if name not in metrics:
            if not self._warned:
                known = ", ".join(sorted(metrics))
                self._session.notice(f"checkpoint.keep_best: there is no metric {name}, only {known}", level="error")
            self._warned = True
            return
        value = metrics[name]
        if is_better(name, value, self._best):
            if self._try("light", "best", best={"metric": name, "value": value}):
                self._best = value

    def at_end(self) -> None:
        """The last checkpoint. Raises MemdashError, OSError."""
        if self._config.at_end != "none":
            say(self.save(self._config.at_end, "end"))

    def after_out_of_memory(self, stop: OutOfMemoryStop) -> None:
        """The failed group was rewound, so the state before it can still be saved, unless an update is torn."""
        if not stop.state_is_whole:
            return
        try:
            say(self.save("full", "out of memory"))
        except (MemdashError, OSError) as error:
            self._session.notice(f"the last checkpoint could not be saved: {error}", level="error")

    def check_disk(self) -> None:
        """Say at the start, not after hours, that the disk or its budget is too small. Raises UsageError."""
        if self._disk:
            precision = PRECISIONS[self._config.light_precision]
            full_bytes = self._expected_bytes("full", self._state.need_bytes("full"))
            light_bytes = self._expected_bytes("light", self._state.need_bytes("light", precision))
            self._disk.at_start(self._config, full_bytes, light_bytes)
        need_bytes = round(self._state.need_bytes("full") * DISK_MARGIN)
        free_bytes = self._store.free_bytes()
        if free_bytes < ROOM_FOR * need_bytes:
            text = f"little room for checkpoints in {self._store.folder}: a full one needs {format_bytes(need_bytes)}"
            self._warn([f"{text}, {format_bytes(free_bytes)} are free"])

    def _make_room(self, kind: CheckpointKind, need_bytes: int, staging: Path | None = None) -> None:
        """Raises StoreError when the budget has none."""
        if self._disk:
            bests = self._bests()
            best = next((path for path, value in bests.items() if value == self._best), None)
            step = self._state.progress.step
            self._disk.make_room(need_bytes, f"a {kind} checkpoint", step=step, best=best, staging=staging)

    def _expected_bytes(self, kind: CheckpointKind, need_bytes: int) -> int:
        return expected_bytes(need_bytes, [old for old in complete(self._store.folder) if old.kind == kind])

    def _try(self, kind: CheckpointKind, reason: Reason, **more: Any) -> bool:
        """Save; when that fails the older ones are untouched, and stopping would only lose more."""
        try:
            say(self.save(kind, reason, **more))
        except Exception as error:  # also what a task's own save_files may raise
            text = f"{error}" or type(error).__name__
            self._session.notice(f"checkpoint not saved, training goes on: {text}", level="error")
            return False
        return True

    def _is_due(self) -> bool:
        progress, config = self._state.progress, self._config
        by_step = bool(config.every_steps) and progress.step % config.every_steps == 0
        by_epoch = config.every_epoch and progress.position == 0
        by_time = bool(config.every_minutes) and self._trained_s() - self._saved_s >= 60 * config.every_minutes
        return by_step or by_epoch or by_time

    def _trained_s(self) -> float:
        return self._clock() - self._session.paused_s

    def _bests(self) -> dict[Path, float]:
        """The best ones on disk by the config's metric: more than one only when a process died between two."""
        found = {}
        for checkpoint in complete(self._store.folder):
            if checkpoint.reason == "best":
                try:
                    best = read_training(checkpoint.path)["best"]
                    if best["metric"] == self._config.keep_best:
                        found[checkpoint.path] = float(best["value"])
                except (CheckpointIncomplete, KeyError, TypeError, ValueError):
                    continue
        return found

    def _best_on_disk(self) -> float | None:
        """A run that went on from an older checkpoint does not lose the best one that it once had."""
        best: float | None = None
        for value in self._bests().values():
            best = value if is_better(self._config.keep_best, value, best) else best
        return best

    def _warn(self, notes: list[str]) -> None:
        for note in notes:
            self._session.notice(note, level="warning")

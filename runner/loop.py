"""The training loop: one group a step, commands between steps, one place that everything a resume needs is saved from."""

from __future__ import annotations

import sys
import time
from typing import Any, Literal

from memdash import wire
from memdash.agent.session import Session
from memdash.config import RunConfig
from memdash.errors import MemdashError
from memdash.units import format_bytes
from runner.checkpoint import CheckpointStore, Reason
from runner.evaluation import Evaluation
from runner.groups import Groups
from runner.oom import OutOfMemoryStop
from runner.optimizer import Plan
from runner.randomness import RngState
from runner.step import GroupStep, StepResult
from runner.training_state import TrainingState

SAY_EVERY_S = 2.0  # often enough to see life, rarely enough to read


class Loop:
    """A run from its first step (or the one it resumes at) to its last, a Stop, or memory's end."""

    def __init__(
        self,
        config: RunConfig,
        session: Session,
        plan: Plan,
        state: TrainingState,
        step: GroupStep,
        evaluation: Evaluation,
        store: CheckpointStore,
        facts: dict[str, Any],
    ) -> None:
        self._config = config
        self._session = session
        self._plan = plan
        self._state = state
        self._step = step
        self._evaluation = evaluation
        self._store = store
        self._facts = facts
        self._groups = Groups(plan.num_examples, plan.global_batch, config.run.seed)
        self._evaluated_at = -1
        self._said_s = 0.0
        session.on(wire.SetBatchSplit, self._on_set_batch_split)
        session.on(wire.SaveCheckpoint, self._on_save_checkpoint)
        session.on(wire.EmptyCache, self._on_empty_cache)

    def run(self) -> Literal["finished", "stopped"]:
        """Train to the end. Raises OutOfMemoryStop after saving what can be saved."""
        progress = self._state.progress
        if not self._session.obey():  # a Stop may have come while the model was loading
            return "stopped"
        try:
            while progress.step < self._plan.total_steps:
                if not self._one_step() or not self._between_steps():
                    return "stopped"
        except OutOfMemoryStop as stop:
            self._save_after(stop)
            raise
        if self._evaluated_at != progress.step and not self._evaluate():
            return "stopped"
        if self._config.checkpoint.at_end != "none":
            say(self.save(self._config.checkpoint.at_end, "end"))
        return "finished"

    def _one_step(self) -> bool:
        """Train one group, count it as committed, report it, obey what has come; False when the run is to stop."""
        progress, train = self._state.progress, self._config.train
        began_s = time.monotonic()
        epoch = progress.epoch
        indices = self._groups.at(epoch, progress.position)
        learning_rate = self._plan.learning_rate(progress.step)
        result = self._step.train(indices, epoch, learning_rate, train.max_grad_norm)
        step_time_s = time.monotonic() - began_s  # no pause lies between: commands are obeyed after the step

        # The group is committed: from here on a checkpoint counts its examples.
        progress.step += 1
        progress.examples_seen += len(indices)
        progress.position += len(indices)
        if progress.position >= self._plan.num_examples:
            progress.epoch, progress.position = epoch + 1, 0
        self._say_step(result, epoch, step_time_s, learning_rate)
        return self._session.end_step(
            loss=result.loss,
            step_time_s=step_time_s,
            examples_seen=progress.examples_seen,
            micro_batch=self._step.split.micro_batch,
            grad_accum_steps=self._step.split.grad_accum_steps,
            epoch=epoch,
            learning_rate=learning_rate,
            grad_norm=result.grad_norm,
            num_items=result.num_items,
            longest=result.longest,
        )

    def _between_steps(self) -> bool:
        """What the schedule wants after this step; False when a Stop came in an evaluation."""
        step = self._state.progress.step
        every = self._config.train.eval_every
        if every and step % every == 0 and not self._evaluate():
            return False
        every = self._config.checkpoint.every_steps
        if every and step % every == 0 and step < self._plan.total_steps:
            try:
                say(self.save("full", "schedule"))
            except (MemdashError, OSError) as error:
                # The older checkpoints are untouched; stopping would only lose more.
                self._session.notice(f"checkpoint not saved, training goes on: {error}", level="error")
        return True

    def _evaluate(self) -> bool:
        self._evaluated_at = self._state.progress.step
        going = self._evaluation.run(self._step.split.micro_batch)
        if self._evaluation.metrics:
            figures = "  ".join(f"{name} {value:.4f}" for name, value in self._evaluation.metrics.items())
            say(f"evaluation after step {self._evaluated_at}: {figures}")
        return going

    def save(self, kind: wire.CheckpointKind, reason: Reason) -> str:
        """Write a checkpoint of the last committed step; what was done, in words. Raises MemdashError, OSError."""
        began_s = time.monotonic()
        state = self._state
        with state.device.host():
            # An evaluation in progress has drawn random numbers that it will put back.
            rng = self._evaluation.rng_before or RngState.capture()
        facts = {**self._facts, "micro_batch": self._step.split.micro_batch}
        with self._session.phase("saving"):
            saved = self._store.save(
                kind,
                state.progress.step,
                reason,
                state.need_bytes(kind),
                lambda staging: state.write(staging, kind, rng, facts),
            )
        self._session.checkpoint_saved(kind, str(saved.path), saved.size_bytes, time.monotonic() - began_s)
        for note in self._store.remove_old():
            self._session.notice(note, level="warning")
        return f"{kind} checkpoint of {format_bytes(saved.size_bytes)} at {saved.path}"

    def _save_after(self, stop: OutOfMemoryStop) -> None:
        """The failed group was rewound, so the state before it can still be saved, unless an update is torn."""
        if not stop.state_is_whole:
            return
        try:
            say(self.save("full", "out of memory"))
        except (MemdashError, OSError) as error:
            self._session.notice(f"the last checkpoint could not be saved: {error}", level="error")

    # ---- commands: called between steps, in this thread ----

    def _on_set_batch_split(self, command: wire.SetBatchSplit) -> str:
        self._step.split = self._step.split.with_micro_batch(command.micro_batch)
        return str(self._step.split)

    def _on_save_checkpoint(self, command: wire.SaveCheckpoint) -> str:
        result = self.save(command.kind, "command")
        say(result)
        return result

    def _on_empty_cache(self, command: wire.EmptyCache) -> str:
        given_back = self._state.device.empty_cache()
        self._session.sample_memory()
        return f"gave back {format_bytes(given_back)}"

    def _say_step(self, result: StepResult, epoch: int, step_time_s: float, learning_rate: float) -> None:
        """A line for people every few seconds; the supervisor has the figures of every step."""
        progress = self._state.progress
        now_s = time.monotonic()
        if now_s - self._said_s < SAY_EVERY_S and progress.step < self._plan.total_steps:
            return
        self._said_s = now_s
        place = f"step {progress.step}/{self._plan.total_steps}  epoch {epoch + 1}"
        pace = f"{step_time_s:.2f} s/step  {self._step.split}"
        say(f"{place}  loss {result.loss:.4f}  lr {learning_rate:.2e}  {pace}")


def say(text: str) -> None:
    """One line on the standard output, at once: the supervisor shows it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

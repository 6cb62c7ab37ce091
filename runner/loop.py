"""The training loop: one group a step, commands between steps, one place that everything a resume needs is saved from."""

from __future__ import annotations

import gc
import time
from functools import partial
from typing import Literal

from memdash import wire
from memdash.agent.session import Session
from memdash.config import RunConfig
from memdash.units import format_bytes
from runner.evaluation import Evaluation
from runner.groups import Groups
from runner.lookahead import Lookahead
from runner.oom import OutOfMemoryStop
from runner.optimizer import Plan
from runner.patience import Patience
from runner.release import Release
from runner.rollback import Rollback
from runner.saving import Saving
from runner.say import say
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
        saving: Saving,
        rollback: Rollback,
    ) -> None:
        self._config = config
        self._session = session
        self._plan = plan
        self._state = state
        self._step = step
        self._evaluation = evaluation
        self.saving = saving
        self._rollback = rollback
        bucket_lengths = step.lengths if config.data.padding == "bucket" else None
        self._groups = Groups(plan.num_examples, plan.global_batch, config.run.seed, bucket_lengths)
        self._lookahead = Lookahead(session, self._groups, plan, step, flat=config.data.padding == "flat")
        self._patience = Patience(config.train, session)
        self._said_s = 0.0
        if step.why_whole:
            session.decline(wire.SetBatchSplit, step.why_whole)
            session.decline(wire.CapStep, step.why_whole)
        else:
            session.on(wire.SetBatchSplit, self._on_set_batch_split)
            session.on(wire.CapStep, self._on_cap_step)
        session.on(wire.SaveCheckpoint, self._on_save_checkpoint)
        session.on(wire.EmptyCache, self._on_empty_cache)
        if state.device.can_release:
            release = Release(state)
            session.on_release(release.release, release.restore)

    def run(self) -> Literal["finished", "stopped"]:
        """Train to the end. Raises OutOfMemoryStop after saving what can be saved."""
        try:
            return self._run()
        finally:
            self._step.close()

    def _run(self) -> Literal["finished", "stopped"]:
        if not self._session.obey():  # a Stop may have come while the model was loading
            return "stopped"
        try:
            if self._evaluation_is_due() and not self._between_steps():  # it was stopped before it, or in it
                return "stopped"
            self._lookahead.tell(self._state.progress)
            while self._state.progress.step < self._plan.total_steps and not self.why_early:
                if not self._next():
                    return "stopped"
        except OutOfMemoryStop as stop:
            self.saving.after_out_of_memory(stop)
            raise
        progress = self._state.progress
        if progress.evaluated_at != progress.step and not self._evaluate():
            return "stopped"
        if self.why_early:
            self._session.notice(self.why_early)
            say(self.why_early)
        self.saving.at_end()
        return "finished"

    @property
    def why_early(self) -> str:
        """Why the run is over before its last step; empty while it is not."""
        return self._patience.why_over(self._state.progress)

    def _next(self) -> bool:
        """One step further, or back to the last checkpoint; False when the run is to stop."""
        try:
            return self._one_step() and self._between_steps()
        except OutOfMemoryStop as stop:
            self._rollback.go_back(stop)
            self._lookahead.tell(self._state.progress, again=True)
        return self._session.obey()

    def _one_step(self) -> bool:
        """Train one group, count it as committed, report it, obey what has come; False when the run is to stop."""
        progress, train = self._state.progress, self._config.train
        began_s = time.monotonic()
        epoch = progress.epoch
        indices = self._groups.at(epoch, progress.position)
        learning_rate = self._plan.learning_rate(progress.step)
        left = self._plan.total_steps - progress.step - 1
        after = partial(self._groups.after, epoch, progress.position + len(indices), left)
        result = self._step.train(indices, epoch, learning_rate, train.max_grad_norm, after)
        step_time_s = time.monotonic() - began_s  # no pause lies between: commands are obeyed after the step

        # The group is committed: from here on a checkpoint counts its examples.
        progress.step += 1
        progress.examples_seen += len(indices)
        progress.position += len(indices)
        if progress.position >= self._plan.num_examples:
            progress.epoch, progress.position = epoch + 1, 0
        self._say_step(result, epoch, step_time_s)
        goes_on = self._session.end_step(
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
        self._lookahead.tell(progress, again=self._step.was_cut)
        return goes_on

    def _between_steps(self) -> bool:
        """What the schedule wants after this step; False when a Stop came in an evaluation."""
        every = self._config.memory.empty_cache_every
        if every and self._state.progress.step % every == 0:
            gc.collect()
            self._state.device.empty_cache()
        if self._evaluation_is_due() and not self._evaluate():
            return False
        self.saving.after_step(last=self._state.progress.step >= self._plan.total_steps)
        return True

    def _evaluation_is_due(self) -> bool:
        progress, every = self._state.progress, self._config.train.eval_every
        return bool(every and progress.step) and progress.step % every == 0 and progress.evaluated_at != progress.step

    def _evaluate(self) -> bool:
        """False when a Stop came meanwhile: then it is still due after a resume."""
        step = self._state.progress.step
        if not self._evaluation.run(self._step.split.micro_batch):
            return False
        self._state.progress.evaluated_at = step
        self._patience.look(self._evaluation.metrics, self._state.progress)
        if self._evaluation.metrics:
            figures = "  ".join(f"{name} {value:.4f}" for name, value in self._evaluation.metrics.items())
            say(f"evaluation after step {step}: {figures}")
        self.saving.after_evaluation()
        return True

    # ---- commands: called between steps, in this thread ----

    def _on_set_batch_split(self, command: wire.SetBatchSplit) -> str:
        self._step.ask(command.micro_batch)
        return str(self._step.split)

    def _on_cap_step(self, command: wire.CapStep) -> str:
        self._step.cap(command.step, command.micro_batch)
        self._lookahead.tell(self._state.progress)
        return f"step {command.step} will be cut to micro-batch {command.micro_batch}"

    def _on_save_checkpoint(self, command: wire.SaveCheckpoint) -> str:
        if command.reason == "signal" and (saved := self.saving.saved_now):
            return f"saved already: {saved}"  # a scheduler may signal every process of a job
        result = self.saving.save(command.kind, command.reason)
        say(result)
        return result

    def _on_empty_cache(self, command: wire.EmptyCache) -> str:
        given_back = self._state.device.empty_cache()
        self._session.sample_memory()
        return f"gave back {format_bytes(given_back)}"

    def _say_step(self, result: StepResult, epoch: int, step_time_s: float) -> None:
        """A line for people every few seconds; the supervisor has the figures of every step."""
        progress = self._state.progress
        now_s = time.monotonic()
        if now_s - self._said_s < SAY_EVERY_S and progress.step < self._plan.total_steps:
            return
        self._said_s = now_s
        place = f"step {progress.step}/{self._plan.total_steps} epoch {epoch + 1}"
        say(f"{place} loss {result.loss:.4f} {step_time_s:.2f} s/step {self._step.split}")

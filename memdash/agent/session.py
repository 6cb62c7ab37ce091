"""The public API of a training script: report steps, obey commands.

    session = memdash.Session(read_memory=cuda_memory())
    session.on(wire.SetBatchSplit, change_split)
    session.start(total_steps=1000, global_batch=16, micro_batch=4)
    for step in range(1000):
        ...
        going = session.end_step(
            loss=loss, step_time_s=took_s, examples_seen=16 * (step + 1), micro_batch=4, grad_accum_steps=4
        )
        if not going:
            break
    session.finish()

`read_memory` returns the device's figures and restarts its peaks. memdash.agent.memory has `cuda_memory(index)` (ROCm too),
`mps_memory()` for Apple's GPUs, and `tightest(cuda_memory(0), cuda_memory(1))` for a process on several devices: at each
step the one that is nearest to its capacity. Any function that returns a wire.DeviceMemory will do.

The script is started by `memdash run -- python train.py`. Outside of it a session has no supervisor: it costs nothing and every
call does nothing.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from memdash import wire
from memdash.agent.coming import records
from memdash.agent.control import Control, Handler
from memdash.agent.last_words import leave, on_exit
from memdash.agent.link import Link
from memdash.agent.memory import MemoryReader, no_device
from memdash.ring import RingReader, RingWriter

Phase = Literal["loading", "training", "evaluating", "saving", "paused", "ending"]


class Session:
    """One rank's side of a run. All methods are called in the training thread and never block but in a pause."""

    def __init__(self, read_memory: MemoryReader | None = None) -> None:
        environment = os.environ.get
        self.run_id = environment("MEMDASH_RUN_ID", "")
        self.rank = int(environment("RANK", "0"))
        self.world_size = int(environment("WORLD_SIZE", "1"))
        self.attempt = int(environment("MEMDASH_ATTEMPT", "0"))
        self.asked_micro_batch = int(environment("MEMDASH_MICRO_BATCH") or 0)
        """What this attempt should begin with, after one that ran out of memory; 0 = the script's own choice."""
        self.run_dir = environment("MEMDASH_RUN_DIR", "")
        """The run's directory, the same for all its attempts; empty outside of memdash."""
        self.step = 0
        """Optimizer steps done."""
        self.read_memory = read_memory or no_device("this script named no device to memdash.Session")
        self.paused_s = 0.0
        """Seconds spent paused so far; not part of any step's time."""
        self._phase: Phase
        self._enter("loading")
        self._plan: wire.TrainingStarted | None = None
        self._coming: wire.ComingGroups | None = None
        self._ended = False
        self._stopped = False
        path = environment("MEMDASH_SOCKET", "")
        self._ring = RingWriter() if path else None
        self._link = Link(path, self._greeting, RingReader(self._ring.memory, self.rank)) if self._ring else None
        if self._ring:
            os.register_at_fork(after_in_child=self._forked)
        self._control = Control(self, self._link.commands if self._link else queue.SimpleQueue())

    def on(self, command: type[wire.Message], handler: Handler) -> None:
        """Offer a command: `handler(command)` does it and returns what it did, or raises. Before `start`."""
        self._control.handle(command, handler)

    def decline(self, command: type[wire.Message], reason: str) -> None:
        """Say in words for a person why a command is not offered. Before `start`."""
        self._control.decline(command, reason)

    def on_release(self, release: Callable[[], str], restore: Callable[[], str]) -> None:
        """Offer pauses that free the device: both say what they did, in words, or raise and leave all as it was."""
        self._control.handle_release(release, restore)

    def start(
        self,
        *,
        total_steps: int,
        global_batch: int,
        micro_batch: int,
        start_step: int = 0,
        steps_per_epoch: int = 0,
        num_examples: int = 0,
        num_parameters: int = 0,
        num_trainable_parameters: int = 0,
        model: str = "",
        task: str = "",
        device: str = "",
        item_name: str = "examples",
    ) -> None:
        """Say what is going to be done and connect to the supervisor."""
        self.step = start_step
        self._plan = wire.TrainingStarted(
            rank=self.rank,
            time_s=time.time(),
            start_step=start_step,
            total_steps=total_steps,
            steps_per_epoch=steps_per_epoch,
            num_examples=num_examples,
            global_batch=global_batch,
            micro_batch=micro_batch,
            num_parameters=num_parameters,
            num_trainable_parameters=num_trainable_parameters,
            model=model,
            task=task,
            device=device,
            item_name=item_name,
        )
        self._enter("training")
        if self._link:
            self._link.start()
            on_exit(lambda reason: self.finish("failed", reason), self._leave)

    def coming(self, longest: Sequence[int], examples: Sequence[int] | None = None) -> None:
        """Say how long the longest example is of each step after this one, so that one that will not fit can be named.

        As far ahead as the order is known. `examples` are the indices of those examples. Say it again when the order
        becomes known further, or when a step was cut smaller to fit.
        """
        if not self._link:
            return
        positions = records(longest)
        self._coming = wire.ComingGroups(
            rank=self.rank,
            time_s=time.time(),
            through_step=self.step + len(longest),
            steps=[self.step + 1 + position for position in positions],
            longest=[longest[position] for position in positions],
            examples=[examples[position] if examples else -1 for position in positions],
        )
        self.send(self._coming)

    def end_step(
        self,
        *,
        loss: float | None,
        step_time_s: float,
        examples_seen: int,
        micro_batch: int,
        grad_accum_steps: int,
        epoch: int = 0,
        learning_rate: float | None = None,
        grad_norm: float | None = None,
        num_items: int = 0,
        longest: int = 0,
    ) -> bool:
        """Count one optimizer step, report it, and obey commands; False when the run is to stop."""
        self.step += 1
        if self._ring:
            self._ring.step(
                time.time(),
                self.step,
                epoch,
                examples_seen,
                micro_batch,
                grad_accum_steps,
                step_time_s,
                loss,
                learning_rate,
                grad_norm,
                num_items,
                longest,
                self.read_memory(),
            )
        return self.obey()

    def obey(self) -> bool:
        """Carry out the commands that have come; call it only where the state is whole. False = stop."""
        self._stopped = not self._control.at_boundary()
        return not self._stopped

    def request_stop(self, save: Literal["none", "light", "full"] = "full") -> None:
        """Stop at the next step boundary, saving first; for signal handlers and wall-time limits."""
        self._control.request_stop(save)

    def request_checkpoint(self, kind: wire.CheckpointKind = "full") -> None:
        """Save at the next step boundary and go on; for signal handlers."""
        self._control.request_checkpoint(kind)

    @contextlib.contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        """Say what the process is busy with for a while, and show its memory before and after."""
        before = self._phase
        self._enter(phase)
        began_s = time.monotonic()
        self._send_phase()
        try:
            yield
        finally:
            if phase == "paused":
                self.paused_s += time.monotonic() - began_s
            self.sample_memory()
            self._enter(before)
            self._send_phase()

    def sample_memory(self) -> None:
        """Report device memory outside a step."""
        if self._ring:
            self._ring.reading(time.time(), self.step, self.read_memory())

    def notice(self, text: str, *, level: wire.Level = "info") -> None:
        """Write a line into the run's journal."""
        self.send(wire.Notice(rank=self.rank, time_s=time.time(), step=self.step, level=level, text=text))

    def split_changed(self, before: int, after: int, cause: str) -> None:
        """Report a micro-batch that the script has changed by itself."""
        self.send(
            wire.SplitChanged(
                rank=self.rank, time_s=time.time(), step=self.step, before=before, after=after, cause=cause
            )
        )

    def checkpoint_saved(
        self, kind: wire.CheckpointKind, path: str, size_bytes: int, duration_s: float, reason: str = ""
    ) -> None:
        """Report a checkpoint that is complete on disk."""
        self.send(
            wire.CheckpointSaved(
                rank=self.rank,
                time_s=time.time(),
                step=self.step,
                kind=kind,
                path=path,
                size_bytes=size_bytes,
                duration_s=duration_s,
                reason=reason,
            )
        )

    def evaluated(self, metrics: dict[str, float], num_examples: int) -> None:
        """Report the metrics of an evaluation."""
        self.send(
            wire.EvaluationReport(
                rank=self.rank, time_s=time.time(), step=self.step, num_examples=num_examples, metrics=metrics
            )
        )

    def report_oom(
        self,
        *,
        where: str,
        micro_batch: int,
        next_micro_batch: int | None,
        message: str,
        requested_bytes: int | None = None,
        memory: wire.DeviceMemory | None = None,
    ) -> None:
        """Report a device out-of-memory error and what is tried next."""
        self.send(
            wire.OomReport(
                rank=self.rank,
                time_s=time.time(),
                step=self.step,
                where=where,
                micro_batch=micro_batch,
                next_micro_batch=next_micro_batch,
                message=message,
                requested_bytes=requested_bytes,
                memory=memory,
            )
        )

    @property
    def ended(self) -> bool:
        """Whether goodbye has been said."""
        return self._ended

    def finish(self, outcome: Literal["", "finished", "stopped", "failed", "oom"] = "", reason: str = "") -> None:
        """Say goodbye and close the link; at most two seconds. Later calls do nothing.

        Without an `outcome` the run is finished, or stopped where `end_step` has said so.
        """
        if self._ended:
            return
        outcome = outcome or ("stopped" if self._stopped else "finished")
        self.send(
            wire.Goodbye(rank=self.rank, time_s=time.time(), step=self.step, outcome=outcome, reason=reason[:2000])
        )
        if self._link:
            self._link.start()  # a script that fails before `start` still has last words
        self._leave()

    def send(self, message: wire.Message) -> None:
        """Hand a message to the link; nothing happens without a supervisor."""
        if self._link:
            self._link.put(message)

    def _leave(self) -> None:
        """The last words, on disk and then to the supervisor, should there be one."""
        if self._ended or not self._link:
            return
        self._ended = True
        if self.run_dir:
            leave(self.run_dir, self.rank, self._link.unheard())
        self._link.close()

    def _forked(self) -> None:
        """A DataLoader worker reports nothing: the ring has one writer."""
        self._ring = None

    def _enter(self, phase: Phase) -> None:
        self._phase, self._phase_since_s = phase, time.time()

    def _send_phase(self) -> None:
        self.send(self._phase_changed())

    def _phase_changed(self) -> wire.PhaseChanged:
        return wire.PhaseChanged(rank=self.rank, time_s=self._phase_since_s, step=self.step, phase=self._phase)

    def _greeting(self) -> list[wire.Message]:
        """What opens every connection, also one to a supervisor that was started anew."""
        hello = wire.Hello(
            role="rank",
            protocol_version=wire.PROTOCOL_VERSION,
            run_id=self.run_id,
            pid=os.getpid(),
            rank=self.rank,
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            world_size=self.world_size,
            attempt=self.attempt,
            capabilities=self._control.capabilities(),
            samples_fd=self._ring.descriptor if self._ring else None,
        )
        known = [message for message in (self._plan, self._coming) if message]
        return [hello, *known, self._phase_changed()]

"""The training side of a trace: steps at a pace, reported to the recording process through a pipe."""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence

from memdash import wire
from memdash.agent.coming import records

FULL_CHECKPOINT_STEP = 12
DIED = 3
"""Exit code of a training process that has told of its out-of-memory error."""


class Loop:
    """Iterate over it to train: each turn is one optimizer step."""

    def __init__(self, name: str, seconds: float, step_s: float, micro_batch: int, epoch_steps: int) -> None:
        self.random = random.Random(name)
        self.total_steps = round(seconds / step_s)
        self.step = 0
        self.micro_batch = micro_batch
        self.epoch_steps = epoch_steps
        self.longest = 0
        self.read_memory: Callable[[], wire.DeviceMemory | None] = lambda: None
        self.write_full: Callable[[str], None] = _write_megabytes
        """Writes everything that an exact resume needs to a path."""
        self.elapsed_s = 0.0
        self._step_s = step_s
        self._began_s = time.monotonic()

    def __iter__(self) -> Iterator[int]:
        """The number of each step, while it goes on."""
        self._began_s = time.monotonic()
        for step in range(1, self.total_steps + 1):
            begun_s = time.monotonic()
            self.elapsed_s = begun_s - self._began_s
            yield step
            pace_s = self._step_s * self.random.uniform(0.8, 1.2)
            time.sleep(max(0.0, begun_s + pace_s - time.monotonic()))
            self.step = step
            self._report(time.monotonic() - begun_s)
            if step == FULL_CHECKPOINT_STEP:
                self._save()

    def start(self) -> None:
        """Say what is going to be done."""
        send(
            wire.TrainingStarted(
                rank=0, time_s=time.time(), start_step=0, total_steps=self.total_steps, steps_per_epoch=self.epoch_steps,
                num_examples=self.epoch_steps * self.micro_batch, global_batch=self.micro_batch,
                micro_batch=self.micro_batch,
            )
        )  # fmt: skip

    def coming(self, longest: Sequence[int]) -> None:
        """Say how long the longest example of each step is, from the first step on."""
        places = records(longest)
        send(
            wire.ComingGroups(
                rank=0, time_s=time.time(), through_step=len(longest), steps=[place + 1 for place in places],
                longest=[longest[place] for place in places], examples=[place * self.micro_batch for place in places],
            )
        )  # fmt: skip

    def out_of_memory(self, message: str) -> None:
        """Tell of it and end."""
        send(
            wire.OomReport(
                rank=0, time_s=time.time(), step=self.step + 1, where="forward/backward",
                micro_batch=self.micro_batch, next_micro_batch=None, message=message,
            )
        )  # fmt: skip
        os._exit(DIED)

    def _report(self, took_s: float) -> None:
        send(
            wire.StepReport(
                rank=0, seq=self.step, time_s=time.time(), step=self.step, epoch=0,
                examples_seen=self.step * self.micro_batch, micro_batch=self.micro_batch, grad_accum_steps=1,
                step_time_s=took_s, loss=None, longest=self.longest, memory=self.read_memory(),
            )
        )  # fmt: skip

    def _save(self) -> None:
        begun_s = time.monotonic()
        with tempfile.NamedTemporaryFile() as file:
            self.write_full(file.name)
            with open(file.name, "rb") as written:
                os.fsync(written.fileno())
            took_s = time.monotonic() - begun_s
            size = os.path.getsize(file.name)
        send(
            wire.CheckpointSaved(
                rank=0, time_s=time.time(), step=self.step, kind="full", path="", size_bytes=size, duration_s=took_s
            )
        )


def send(message: wire.Message) -> None:
    """One frame to whoever records; a reader that is gone ends this process."""
    sys.stdout.buffer.write(wire.encode(message))
    sys.stdout.buffer.flush()


def _write_megabytes(path: str) -> None:
    """As much as a small model with its optimizer's state."""
    with open(path, "wb") as file:
        for _ in range(48):
            file.write(bytes(1 << 20))

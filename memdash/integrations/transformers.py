"""A callback for the transformers Trainer: reports its steps and obeys the keys of memdash.

    callback = MemdashCallback()
    trainer = Trainer(model, args, train_dataset=..., callbacks=[callback])
    trainer.train(resume_from_checkpoint=callback.resume_from(args.output_dir))

Started by `memdash run -- python train.py`; outside of it the callback does nothing. The Trainer tells callbacks no loss but
what it logs (`logging_steps`), and no lengths. It writes its checkpoints in place, by itself, right after the step.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from memdash import wire
from memdash.agent.memory import MemoryReader, cuda_memory, mps_memory, no_device
from memdash.agent.session import Session
from memdash.errors import MemdashError

NOT_METRICS = ("epoch", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
WHOLE = "the Trainer's batches are made by its DataLoader: set per_device_train_batch_size and resume"


class MemdashCallback(TrainerCallback):  # type: ignore[misc]
    """One training of a Trainer in one process; a second `train()` is not reported."""

    def __init__(self, read_memory: MemoryReader | None = None) -> None:
        self._session = Session(read_memory)
        self._named_memory = read_memory is not None
        self._reports = False
        self._loss: float | None = None
        self._grad_norm: float | None = None
        self._began_s = 0.0
        self._save_reason = ""
        self._evaluating: contextlib.ExitStack | None = None

    def resume_from(self, output_dir: str) -> str | None:
        """For `train(resume_from_checkpoint=...)`: the last checkpoint when this is another attempt of a run."""
        from transformers.trainer_utils import get_last_checkpoint

        found: str | None = None
        if self._session.attempt and os.path.isdir(output_dir):
            found = get_last_checkpoint(output_dir)
        return found

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        """Connect; ranks of a training by several processes do not, for one alone cannot stop."""
        session = self._session
        self._reports = args.world_size == 1 and not session.ended
        if not self._reports:
            return
        if not self._named_memory:
            session.read_memory = _memory_of(args.device)
        session.on(wire.SaveCheckpoint, lambda command: self._will_save(args, state, command))
        session.decline(wire.SetBatchSplit, WHOLE)
        session.decline(wire.CapStep, WHOLE)
        if args.device.type == "cuda":
            session.on(wire.EmptyCache, lambda command: _empty_cache())
        micro_batch = state.train_batch_size or args.train_batch_size
        weights = list(model.parameters()) if model is not None else []
        session.start(
            total_steps=state.max_steps,
            start_step=state.global_step,
            steps_per_epoch=-(-state.max_steps // max(1, state.num_train_epochs)),
            global_batch=micro_batch * args.gradient_accumulation_steps,
            micro_batch=micro_batch,
            num_parameters=sum(weight.numel() for weight in weights),
            num_trainable_parameters=sum(weight.numel() for weight in weights if weight.requires_grad),
            model=type(model).__name__,
            device=str(args.device),
        )
        self._began_s = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **others: Any) -> Any:
        """Report an optimizer step, wait here while paused, and hand on what is to be done."""
        if not self._reports:
            return control
        micro_batch = state.train_batch_size or args.train_batch_size
        going = self._session.end_step(
            loss=self._loss,
            step_time_s=time.perf_counter() - self._began_s,
            examples_seen=state.global_step * micro_batch * args.gradient_accumulation_steps,
            micro_batch=micro_batch,
            grad_accum_steps=args.gradient_accumulation_steps,
            epoch=int(state.epoch or 0),
            learning_rate=float(lr_scheduler.get_last_lr()[0]) if lr_scheduler else None,
            grad_norm=self._grad_norm,
        )
        control.should_save |= bool(self._save_reason)
        control.should_training_stop |= not going
        self._began_s = time.perf_counter()
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **others: Any) -> None:
        """Take the loss, a mean since it was last logged, for the steps to come."""
        logs = logs or {}
        self._loss = logs.get("loss", self._loss)
        self._grad_norm = logs.get("grad_norm", self._grad_norm)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Say that it evaluates."""
        if self._reports and self._evaluating is None:
            self._evaluating = contextlib.ExitStack()
            self._evaluating.enter_context(self._session.phase("evaluating"))

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **others: Any
    ) -> None:
        """Report the metrics."""
        if not self._reports:
            return
        if self._evaluating is not None:
            self._evaluating.close()
            self._evaluating = None
        loader = others.get("eval_dataloader")
        numbers = {name: value for name, value in (metrics or {}).items() if name not in NOT_METRICS}
        found = {name: float(value) for name, value in numbers.items() if isinstance(value, int | float)}
        self._session.evaluated(found, len(loader.dataset) if loader is not None else 0)
        self._began_s = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Report a checkpoint of the Trainer's."""
        if not self._reports:
            return
        path = Path(args.output_dir, f"checkpoint-{state.global_step}").absolute()
        size_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        took_s = time.perf_counter() - self._began_s
        self._session.checkpoint_saved(_kind(args), str(path), size_bytes, took_s, self._save_reason or "schedule")
        self._save_reason = ""
        self._began_s = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Say goodbye."""
        if self._reports:
            self._reports = False
            self._session.finish()

    def _will_save(self, args: Any, state: Any, command: wire.SaveCheckpoint) -> str:
        if command.kind == "full" and _kind(args) == "light":
            raise MemdashError("the Trainer saves weights only here (save_only_model)")
        self._save_reason = command.reason
        return f"the Trainer saves checkpoint-{state.global_step} when this step ends, not while the run is paused"


def _kind(args: Any) -> wire.CheckpointKind:
    return "light" if args.save_only_model else "full"


def _memory_of(device: Any) -> MemoryReader:
    if device.type == "cuda":
        return cuda_memory(device.index or 0)
    if device.type == "mps":
        return mps_memory()
    return no_device("trained on the CPU: host memory is all there is")


def _empty_cache() -> str:
    import torch

    torch.cuda.empty_cache()
    return "emptied the cache"

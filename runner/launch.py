"""Puts a run together: data, model, device, optimizer, and the checkpoint that it resumes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from memdash.agent.session import Session
from memdash.batching import BatchSplit
from memdash.checkpoints import Checkpoint, choose
from memdash.errors import UsageError
from memdash.units import format_bytes, format_count
from memdash.wire import Level
from runner.adapt import adapt
from runner.checkpoint import CheckpointStore
from runner.device import Device, open_device
from runner.disk_budget import DiskBudget
from runner.evaluation import Evaluation
from runner.growth import Growth
from runner.in_backward import InBackward
from runner.loading import open_loading
from runner.loop import Loop
from runner.oom import OutOfMemory, OutOfMemoryStop, attempt
from runner.optimizer import Plan, make_optimizer, state_bytes
from runner.precision import Precision
from runner.randomness import seed_everything
from runner.rollback import Rollback
from runner.saving import Saving
from runner.say import say
from runner.slicing import Slicing
from runner.snapshots import Snapshots
from runner.spec import Spec
from runner.step import GroupStep
from runner.tasks.opening import open_task
from runner.tasks.protocol import Task
from runner.training_state import Progress, TrainingState, read_training

if TYPE_CHECKING:
    from torch.optim import Optimizer


def prepare(spec: Spec, session: Session) -> Loop:
    """Everything ready for the first step, and the supervisor told. Raises UsageError, OutOfMemoryStop."""
    config = spec.config
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    device = open_device(config.device, record_history=config.memory.record_history)
    resumed = _find_checkpoint(spec, session)
    store = CheckpointStore(spec.checkpoints_dir, config.checkpoint.keep_last, session.attempt)
    seed_everything(config.run.seed)
    task = open_task(spec, resumed.path if resumed else None)
    if not task.train_lengths:
        raise UsageError(f"task.name = {config.task.name!r}: there are no examples to train on")
    slicing = Slicing.of(task, config.data)
    loading = open_loading(task, config.data)  # forks: before there are threads and the device is started
    _tell(session, getattr(task, "notes", ()))
    seed_everything(config.run.seed)  # whatever the task drew while it read its data, weights follow the seed
    model = task.build_model()
    adapt(model, config)
    model.train()
    state = _on_device(model, device, spec, session)
    plan = Plan(len(task.train_lengths), config.train.global_batch, config.train)
    facts: dict[str, Any] = {
        "fingerprint": _fingerprint(task, spec, plan),
        "configured_micro_batch": config.micro_batch,
    }
    split = BatchSplit(config.train.global_batch, config.micro_batch)
    growth = Growth.start(split.group, split.micro_batch, config.train.grow_after)
    step = GroupStep(state, task, split, session, growth, slicing, loading)
    if resumed:
        _restore(state, resumed, exact=bool(spec.resume), facts=facts, step=step, session=session)
    if spec.micro_batch:
        step.ask(spec.micro_batch)
    evaluation = Evaluation(state, task, session, slicing)
    disk = DiskBudget(config.budget.disk, spec.run_dir, store, session) if config.budget.disk else None
    saving = Saving(config.checkpoint, session, state, step, evaluation, task, store, facts, disk)
    saving.check_disk()
    rollback = Rollback(state, session, spec.checkpoints_dir, facts["fingerprint"])
    Snapshots(spec.snapshots_dir, device, has_history=config.memory.record_history).offer(session)
    loop = Loop(config, session, plan, state, step, evaluation, saving, rollback)
    _announce(spec, session, plan, state, task, step.split)
    return loop


def _find_checkpoint(spec: Spec, session: Session) -> Checkpoint | None:
    if not spec.resume and not spec.warm_start:
        return None
    kinds = ("full",) if spec.resume else ("light", "full")
    checkpoint, notes = choose(spec.checkpoints_dir, spec.resume or spec.warm_start, kinds)
    _tell(session, notes, "warning")
    return checkpoint


def _tell(session: Session, notes: Sequence[str], level: Level = "info") -> None:
    for note in notes:
        session.notice(note, level=level)
        say(note)


def _on_device(model: nn.Module, device: Device, spec: Spec, session: Session) -> TrainingState:
    """Model and optimizer state on the device. Raises OutOfMemoryStop when these alone do not fit."""
    note = device.start()
    session.read_memory = device.read_memory
    _tell(session, [note] if note else [], "warning")

    def place() -> Optimizer:
        device.place(model)
        return make_optimizer(model, spec.config.train)

    optimizer = attempt(place)
    if isinstance(optimizer, OutOfMemory):
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        state = state_bytes(model, spec.config.train)
        need = (
            f"weights of {format_bytes(weights)} with gradients and optimizer state of {format_bytes(trained + state)}"
        )
        room = f" of {format_bytes(device.capacity_bytes)}" if device.capacity_bytes else ""
        raise OutOfMemoryStop(f"the model does not fit the device{room}: {need}", state_is_whole=False)
    train = spec.config.train
    in_backward = InBackward.of(optimizer, train, device.host)
    return TrainingState(model, optimizer, Progress(), device, Precision(train.precision, device), in_backward)


def _fingerprint(task: Task, spec: Spec, plan: Plan) -> dict[str, Any]:
    """What must be the same for a position in the data to mean the same, and for the bits to be the same."""
    lengths = ",".join(map(str, task.train_lengths)).encode()
    train, data = spec.config.train, spec.config.data
    return {
        "task": task.name,
        "seed": spec.config.run.seed,
        "num_examples": len(task.train_lengths),
        "lengths_sha256": hashlib.sha256(lengths).hexdigest(),
        "order": f"buckets of {train.global_batch}" if data.padding == "bucket" else "shuffled",
        "padding": data.padding,
        "outliers": f"{data.outliers} above {data.outlier_length}" if data.outlier_length else "",
        **({"downsample": f"{data.downsample}, lowpass {data.lowpass}"} if data.downsample > 1 else {}),
        "global_batch": train.global_batch,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "total_steps": plan.total_steps,
        **{key: getattr(train, key) for key in TRAIN_KEYS},
        **{key: getattr(spec.config.model, key) for key in MODEL_KEYS},
        "model_config": json.dumps(spec.config.model.config, sort_keys=True),
    }


TRAIN_KEYS: tuple[str, ...] = ("learning_rate", "weight_decay", "warmup_steps", "schedule", "max_grad_norm")
TRAIN_KEYS += ("precision", "optimizer", "optimizer_impl", "momentum")
MODEL_KEYS: tuple[str, ...] = ("freeze", "trained_layers", "head_hidden", "head_dropout")
POSITION = ("task", "seed", "num_examples", "lengths_sha256", "order")
"""With another one of these the position in the data would mean other examples; the rest only changes the bits."""
TRAINED = ("freeze", "trained_layers", "optimizer", "momentum")
"""With another one of these the optimizer's state would be of another kind, or of other parameters."""


def _restore(
    state: TrainingState,
    checkpoint: Checkpoint,
    *,
    exact: bool,
    facts: dict[str, Any],
    step: GroupStep,
    session: Session,
) -> None:
    """Load a checkpoint. Raises UsageError when it belongs to other data or another model."""
    saved = read_training(checkpoint.path)
    before = saved.get("fingerprint", {})
    changed = [key for key, value in facts["fingerprint"].items() if before.get(key) != value]
    obstacles = [key for key in changed if key in POSITION]
    if obstacles:
        raise UsageError(
            f"{checkpoint.path}: cannot go on from it, because {' and '.join(obstacles)} differ from this config's",
            hint="its position in the data would mean other examples; start a new run instead",
        )
    others = [key for key in changed if key in TRAINED]
    if exact and others:
        raise UsageError(
            f"{checkpoint.path}: cannot go on exactly, because what is trained has changed ({', '.join(others)})",
            hint="`--warm-start` goes on from its weights alone",
        )
    if exact:
        state.load_all(checkpoint.path)
        text = f"resumed from {checkpoint.path.name} at step {state.progress.step}"
        text += f"; not bitwise, because {' and '.join(changed)} changed" if changed else ""
    else:
        state.load_weights(checkpoint.path)
        text = f"warm start from {checkpoint.path.name} at step {state.progress.step}: weights and the position in the "
        text += "data are kept; not the same are the optimizer's moments, which start from zero, and what dropout draws"
        text += "".join(f", and {key}" for key in changed)
    session.step = state.progress.step
    session.notice(text)
    say(text)
    # The split that the run had, unless the config was changed since: then that is what someone wants.
    as_configured = facts["configured_micro_batch"] == saved.get("configured_micro_batch")
    if as_configured and "global_batch" not in changed and state.in_backward is None:
        step.split = step.split.with_micro_batch(saved["micro_batch"])
        step.growth.load(saved["growth"])


def _announce(spec: Spec, session: Session, plan: Plan, state: TrainingState, task: Task, split: BatchSplit) -> None:
    """Tell the supervisor, and whoever reads the output, what is going to happen."""
    config, device = spec.config, state.device
    parameters = sum(p.numel() for p in state.model.parameters())
    trainable = sum(p.numel() for p in state.model.parameters() if p.requires_grad)
    name = Path(config.model.pretrained).name or getattr(state.model, "shown_as", type(state.model).__name__)
    room = f" of {format_bytes(device.capacity_bytes)}" if device.capacity_bytes else ""
    say(
        f"{task.name}: {name}, {format_count(parameters)} parameters, on {device.name}{room}; "
        f"{plan.num_examples} examples, {plan.total_steps} steps of {split}"
    )
    session.start(
        total_steps=plan.total_steps,
        global_batch=plan.global_batch,
        micro_batch=split.micro_batch,
        start_step=state.progress.step,
        steps_per_epoch=plan.steps_per_epoch,
        num_examples=plan.num_examples,
        num_parameters=parameters,
        num_trainable_parameters=trainable,
        model=name,
        task=task.name,
        device=device.name,
        item_name=task.item_name,
    )

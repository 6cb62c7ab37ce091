"""What the types of a config cannot say: numbers out of range, keys that contradict each other, files that are not there."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path
from typing import NoReturn, Protocol

from memdash.batching import BatchSplit
from memdash.config import (
    BASELINES,
    BUILT_IN_SIGNALS,
    BUILT_IN_SOURCES,
    BUILT_IN_TASKS,
    TEXT_FORMATS,
    DataSection,
    ModelSection,
    RunConfig,
    config_value,
    data_format,
    resolve_path,
    runner_keys,
)
from memdash.errors import PlanError
from memdash.units import parse_bytes, parse_duration

COMMAND_HINT = 'such as ["python", "train.py", "--lr", "3e-4"]; relative paths start from the config\'s directory'

ONE_SLICE = ("batch", "group", "global", "bucket", "flat")
"""What `data.padding` may be for a group to go through the model at once."""


class Fail(Protocol):
    """Raises ConfigError with the place of the key."""

    def __call__(self, key: str, value: object, why: str, hint: str = "") -> NoReturn:
        """`why` the value is wrong, and what to do."""


def check(config: RunConfig, base: Path | None, fail: Fail) -> None:
    """What types cannot say; `base` is what relative paths start from. Calls `fail` for the first mistake."""
    if config.run.command:
        _check_command(config, base, fail)
    train, data = config.train, config.data
    positive = {
        "train.global_batch": train.global_batch,
        "train.learning_rate": train.learning_rate,
        "data.max_length": data.max_length,
        "data.downsample": data.downsample,
        "data.prefetch": data.prefetch,
        "checkpoint.keep_last": config.checkpoint.keep_last,
    }
    not_negative = {
        "model.trained_layers": config.model.trained_layers,
        "model.head_hidden": config.model.head_hidden,
        "train.micro_batch": train.micro_batch,
        "train.max_steps": train.max_steps,
        "train.warmup_steps": train.warmup_steps,
        "train.weight_decay": train.weight_decay,
        "train.max_grad_norm": train.max_grad_norm,
        "train.eval_every": train.eval_every,
        "train.threads": train.threads,
        "train.patience": train.patience,
        "memory.empty_cache_every": config.memory.empty_cache_every,
        "train.grow_after": train.grow_after,
        "data.max_examples": data.max_examples,
        "data.outlier_length": data.outlier_length,
        "data.num_workers": data.num_workers,
        "checkpoint.every_steps": config.checkpoint.every_steps,
        "on_failure.restart": config.on_failure.restart,
        "checkpoint.every_minutes": config.checkpoint.every_minutes,
    }
    for key, number in positive.items():
        if not number > 0:
            fail(key, number, "must be more than 0")
    for key, number in not_negative.items():
        if not number >= 0:
            fail(key, number, "must not be negative")
    if not 0 < train.mlm_probability < 1:
        fail("train.mlm_probability", train.mlm_probability, "must be between 0 and 1")
    if not 0 <= data.validation_fraction < 1:
        fail("data.validation_fraction", data.validation_fraction, "must be at least 0 and below 1")
    if not train.max_steps and not train.epochs > 0:
        fail("train.epochs", train.epochs, "must be more than 0 when train.max_steps is 0")
    if data.vocab_size < 100:
        fail("data.vocab_size", data.vocab_size, "must be at least 100")
    try:
        BatchSplit(train.global_batch, config.micro_batch)
    except PlanError as error:
        fail(
            "train.micro_batch", train.micro_batch, f"more than `train.global_batch` = {train.global_batch}", error.hint
        )
    _check_strategies(config, fail)
    _check_model(config, fail)
    _check_sizes(config, fail)
    if config.budget.wall:
        _check_duration("budget.wall", config.budget.wall, fail)
    _check_duration("guard.cooldown", config.guard.cooldown, fail)
    _check_task(config.task.name, data, base, fail)


def _check_command(config: RunConfig, base: Path | None, fail: Fail) -> None:
    """A program that can be started, and no key that it would never hear of."""
    command = config.run.command
    if not command[0] or any("\0" in part or part.encode(errors="ignore").decode() != part for part in command):
        fail("run.command", command, "the first is the program, and all of them are text without a NUL", COMMAND_HINT)
    if only_ours := runner_keys(config):
        key, *more = only_ours
        too = f", and {', '.join(more)}" if more else ""
        why = "only memdash's own runner heeds it, and `run.command` starts a program of yours"
        fail(key, config_value(config, key), why, f"take it out{too}; the program has options of its own")
    if base is None:
        return
    program = str(base.resolve() / command[0]) if "/" in command[0] else command[0]
    if shutil.which(program) is None:
        if Path(base, command[0]).is_file():
            fail("run.command", command, f"{command[0]} is not a program", COMMAND_HINT)
        where = f"in {base.resolve()}" if "/" in command[0] else "on the PATH"
        fail("run.command", command, f"there is no program {command[0]} {where}", COMMAND_HINT)


def _check_strategies(config: RunConfig, fail: Fail) -> None:
    train, data = config.train, config.data
    if not 0 < data.subset_ratio <= 1:
        fail("data.subset_ratio", data.subset_ratio, "must be more than 0 and at most 1")
    if train.patience and not train.eval_every:
        fail("train.patience", train.patience, "there are no evaluations to wait for", "set train.eval_every")
    if not 0 <= train.momentum < 1:
        fail("train.momentum", train.momentum, "must be at least 0 and below 1")
    if train.momentum and train.optimizer != "sgd":
        fail("train.momentum", train.momentum, f"{train.optimizer} has none", 'only optimizer = "sgd" has')
    if train.optimizer == "adafactor" and train.optimizer_impl == "fused":
        fail("train.optimizer_impl", "fused", "torch has no fused adafactor", "`for-loop` needs the least memory")
    if train.optimizer == "adamw8bit" and train.optimizer_impl != "auto":
        fail("train.optimizer_impl", train.optimizer_impl, "adamw8bit has one implementation", "leave it at `auto`")
    if train.optimizer_in_backward:
        _check_in_backward(config, fail)
    if config.model.trained_layers and config.model.freeze == "none":
        fail("model.trained_layers", config.model.trained_layers, "nothing is frozen", 'set model.freeze = "encoder"')


def _check_model(config: RunConfig, fail: Fail) -> None:
    """The small head and the baselines are for classification."""
    model = config.model
    is_baseline = not model.pretrained and model.architecture in BASELINES
    if not 0 <= model.head_dropout < 1:
        fail("model.head_dropout", model.head_dropout, "must be at least 0 and below 1")
    if config.task.name == "language-modelling":
        why, hint = "it is a language model that is trained, not a classifier", 'set task.name = "text-classification"'
        if is_baseline:
            fail("model.architecture", model.architecture, why, hint)
        if model.head_hidden:
            fail("model.head_hidden", model.head_hidden, why, hint)
    elif config.task.name == "text-classification" and not is_baseline and not model.head_hidden:
        if model.head_dropout != ModelSection().head_dropout:
            fail(
                "model.head_dropout", model.head_dropout, "the architecture's own head is used", "set model.head_hidden"
            )


def _check_in_backward(config: RunConfig, fail: Fail) -> None:
    """An update that comes with the gradient cannot wait for what is only known after it."""
    key, train, data = "train.optimizer_in_backward", config.train, config.data
    if config.micro_batch != train.global_batch:
        why = (
            f"each slice would update the weights, and train.micro_batch = {train.micro_batch} cuts a step into several"
        )
        fail(key, True, why, f"set train.micro_batch = 0, or accumulate: {key} = false")
    if train.max_grad_norm:
        why = "gradients are gone before the norm over all of them is known, so nothing can be clipped by it"
        fail(key, True, why, "set train.max_grad_norm = 0")
    if train.precision == "fp16":
        why = "fp16 must see all gradients before it knows whether one has overflowed"
        fail(key, True, why, 'set train.precision = "bf16" or "fp32"')
    if data.padding not in ONE_SLICE:
        fail(key, True, f'data.padding = "{data.padding}" cuts a step into several slices')
    if data.outlier_length and data.outliers == "isolate":
        why = 'data.outliers = "isolate" cuts a step with a long example into several slices'
        fail(key, True, why, 'set data.outliers = "drop", or data.outlier_length = 0')
    if data.padding == "sequential":
        fail(key, True, 'data.padding = "sequential" takes one item at a time', 'set data.padding = "flat"')


def _check_task(name: str, data: DataSection, base: Path | None, fail: Fail) -> None:
    if name not in BUILT_IN_TASKS:
        if ":" not in name:
            near = difflib.get_close_matches(name, BUILT_IN_TASKS, n=1, cutoff=0.3)
            hint = f"did you mean `{near[0]}`?" if near else f"one of {', '.join(BUILT_IN_TASKS)}, or module:function"
            fail("task.name", name, "no such task", hint)
        _check_own_task(name, base, fail)
        return
    _check_items(name, data, fail)
    if name == "signal-to-text":
        _check_signals(data, base, fail)
    else:
        _check_no_signals(name, data, fail)
        _check_data(data, base, fail)
        if name == "text-classification" and data.source == "aspects":
            fail("data.source", data.source, "has no labels to classify", "name a CSV, TSV or JSONL file with labels")
        if name == "aspects" and data.source == "python-docs":
            hint = 'name a JSONL file with `Quadruplet` lists, or the built-in "aspects"'
            fail("data.source", data.source, "has no quadruples", hint)


def _check_bytes(key: str, text: str, fail: Fail) -> None:
    try:
        size = parse_bytes(text)
    except ValueError as error:
        fail(key, text, str(error))
    else:
        if size <= 0:
            fail(key, text, "must be more than 0")


def _check_sizes(config: RunConfig, fail: Fail) -> None:
    device = config.device
    sizes = {
        "device.capacity": device.capacity,
        "memory.host_budget": config.memory.host_budget,
        "budget.disk": config.budget.disk,
    }
    for key, size in sizes.items():
        if size:
            _check_bytes(key, size, fail)
    if device.kind == "simulated" and not device.capacity:
        fail("device.capacity", "", "a simulated device needs a capacity", 'such as capacity = "2GiB"')


def _check_duration(key: str, text: str, fail: Fail) -> None:
    try:
        parse_duration(text)
    except ValueError as error:
        fail(key, text, str(error))


def _check_own_task(name: str, base: Path | None, fail: Fail) -> None:
    module, _, function = name.partition(":")
    if not all(part.isidentifier() for part in module.split(".")) or not function.isidentifier():
        fail("task.name", name, "not of the form module:function")
    if base is not None:
        path = base.joinpath(*module.split("."))
        if not path.with_suffix(".py").exists() and not (path / "__init__.py").exists():
            fail("task.name", name, f"there is no {module.replace('.', '/')}.py in {base.resolve()}")


def _check_signals(data: DataSection, base: Path | None, fail: Fail) -> None:
    if data.source == BUILT_IN_SIGNALS:
        if data.targets:
            fail("data.targets", data.targets, f"the texts of `{BUILT_IN_SIGNALS}` are made, too", "leave it out")
        return
    if not data.source.endswith(".npy"):
        fail("data.source", data.source, f"signals are a .npy file, or the built-in `{BUILT_IN_SIGNALS}`")
    if not data.targets:
        fail("data.targets", "", "a .npy file has no texts", "name a .txt or .jsonl file with one for each signal")
    for key, name in (("data.source", data.source), ("data.targets", data.targets)):
        if base is not None and not resolve_path(name, base).is_file():
            fail(key, name, "no such file", f"relative paths start from {base.resolve()}")


def _check_no_signals(name: str, data: DataSection, fail: Fail) -> None:
    """Keys that would be ignored."""
    if data.targets:
        fail("data.targets", data.targets, f"{name} has none", 'only task.name = "signal-to-text" has')
    if data.downsample != 1:
        fail("data.downsample", data.downsample, f"{name} has no signals", 'only task.name = "signal-to-text" has')


def _check_items(name: str, data: DataSection, fail: Fail) -> None:
    """What is only for examples of several items; a task of one's own says for itself whether it has them."""
    if data.padding in ("flat", "sequential") and name in BUILT_IN_TASKS and name != "aspects":
        hint = 'padding = "bucket" pads least here'
        fail("data.padding", data.padding, f"an example of the task {name} is one item, not several", hint)


def _check_data(data: DataSection, base: Path | None, fail: Fail) -> None:
    if data.source in BUILT_IN_SOURCES:
        if data.where:
            fail("data.where", data.where, f"`{data.source}` has no columns to choose rows by")
        return
    if base is not None and not resolve_path(data.source, base).is_file():
        near = difflib.get_close_matches(data.source, BUILT_IN_SOURCES, n=1, cutoff=0.6)
        hint = f"did you mean the built-in `{near[0]}`?" if near else f"relative paths start from {base.resolve()}"
        if data.source.startswith("package:"):
            hint = (
                f"install the package `{data.source.removeprefix('package:').partition('/')[0]}`, or see what is in it"
            )
        fail("data.source", data.source, "no such file", hint)
    if not data.format and data_format(data) == "":
        fail("data.source", data.source, "the ending says no known format", f"set data.format to one of {TEXT_FORMATS}")

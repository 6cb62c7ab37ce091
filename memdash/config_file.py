"""Reads a run config: overrides, validation, and one clear line for every mistake, before anything is started."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from memdash.batching import BatchSplit
from memdash.config import (
    BUILT_IN_SOURCES,
    BUILT_IN_TASKS,
    SECTIONS,
    TEXT_FORMATS,
    DataSection,
    RunConfig,
    data_format,
    resolve_path,
    table_name,
)
from memdash.errors import ConfigError, PlanError
from memdash.units import parse_bytes, parse_duration


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, override (`["train.micro_batch=4"]`) and validate a config file. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", hint="`memdash init` writes a starter config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    where = _Places(str(path), text)
    for override in overrides:
        _override(table, override, where)
    return parse_config(table, where, path.parent)


def parse_config(table: dict[str, Any], where: _Places | None = None, base: Path | None = None) -> RunConfig:
    """A validated config from decoded TOML or JSON; `base` is what relative paths start from. Raises ConfigError."""
    where = where or _Places("config", "")
    try:
        config = msgspec.convert(table, RunConfig)
    except msgspec.ValidationError as error:
        raise _translate(error, table, where) from None
    _check(config, where, base)
    return config


def override_config(config: RunConfig, overrides: Sequence[str], base: Path) -> RunConfig:
    """The same config with some keys set otherwise. Raises ConfigError."""
    table = msgspec.to_builtins(config)
    where = _Places("config", "")
    for override in overrides:
        _override(table, override, where)
    return parse_config(table, where, base)


class _Places:
    """Where each key of a TOML text stands, for messages; overridden keys stand on the command line."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self._lines: dict[str, int] = {}
        self._typed: set[str] = set()
        table = ""
        for number, line in enumerate(text.splitlines(), 1):
            if header := re.match(r"\s*\[\s*([\w.\-\s]+?)\s*\]", line):
                table = header[1]
                self._lines.setdefault(table, number)
            elif key := re.match(r"\s*([\w.\-]+)\s*=", line):
                self._lines.setdefault(f"{table}.{key[1]}" if table else key[1], number)

    def typed(self, key: str) -> None:
        """Remember that `key` was given by --set."""
        self._typed.add(key)

    def __call__(self, key: str) -> str:
        if key in self._typed:
            return "--set"
        line = self._lines.get(key)
        return f"{self.name}:{line}" if line else self.name


def _override(table: dict[str, Any], override: str, where: _Places) -> None:
    key, equals, value = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"--set {override}: not of the form key=value", hint="such as --set train.micro_batch=4")
    *tables, name = key.split(".")
    target = table
    for part in tables:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--set {override}: {part} is not a table")
    target[name] = _toml_value(value.strip())
    where.typed(key)


def _toml_value(text: str) -> Any:
    """`4` -> 4, `true` -> True, `[1, 2]` -> a list; what is not TOML is a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _translate(error: msgspec.ValidationError, table: dict[str, Any], where: _Places) -> ConfigError:
    """msgspec's message with file, line, key, value and the nearest valid key."""
    message, _, path = str(error).partition(" - at `$.")
    path = path.rstrip("`").replace("[...]", "")
    if unknown := re.search(r"unknown field `(.+?)`", message):
        key = f"{path}.{unknown[1]}" if path else unknown[1]
        known = _known_keys(path)
        near = difflib.get_close_matches(unknown[1], known, n=1, cutoff=0.5)
        elsewhere = _sections_with(unknown[1])
        if elsewhere:
            hint = f"`{unknown[1]}` belongs in [{elsewhere[0]}]"
        elif near:
            hint = f"did you mean `{near[0]}`?"
        else:
            hint = f"known here: {', '.join(known)}"
        return ConfigError(f"{where(key)}: unknown key `{key}`", hint=hint)
    if allowed := _allowed(path):
        hint = f"one of {', '.join(map(repr, allowed))}"
        return ConfigError(f"{where(path)}: `{path}` = {_lookup(table, path)!r}: not a known value", hint=hint)
    expected = message[0].lower() + message[1:] if message else "not valid"
    value = _lookup(table, path)
    shown = f" = {value!r}" if value is not None and not isinstance(value, dict) else ""
    return ConfigError(f"{where(path)}: `{path}`{shown}: {expected}")


def _known_keys(path: str) -> list[str]:
    section = next((section for section in SECTIONS.values() if table_name(section) == path), RunConfig)
    return list(section.__annotations__)


def _allowed(path: str) -> list[str]:
    """The values that a key of choices may have; empty for any other key."""
    table, _, key = path.rpartition(".")
    section = next((section for section in SECTIONS.values() if table_name(section) == table), None)
    hint = get_type_hints(section).get(key) if section else None
    return [str(value) for value in get_args(hint)] if get_origin(hint) is Literal else []


def _sections_with(key: str) -> list[str]:
    return [table_name(section) for section in SECTIONS.values() if key in section.__annotations__]


def _lookup(table: dict[str, Any], path: str) -> Any:
    value: Any = table
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value


def _check(config: RunConfig, where: _Places, base: Path | None) -> None:
    """What types cannot say. Raises ConfigError."""

    def fail(key: str, value: object, why: str, hint: str = "") -> None:
        raise ConfigError(f"{where(key)}: `{key}` = {value!r}: {why}", hint=hint)

    train, data = config.train, config.data
    positive = {
        "train.global_batch": train.global_batch,
        "train.learning_rate": train.learning_rate,
        "data.max_length": data.max_length,
        "checkpoint.keep_last": config.checkpoint.keep_last,
    }
    not_negative = {
        "model.trained_layers": config.model.trained_layers,
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
    _check_sizes(config, fail)
    if config.budget.wall:
        _check_duration("budget.wall", config.budget.wall, fail)
    _check_duration("guard.cooldown", config.guard.cooldown, fail)
    _check_task(config.task.name, data, base, fail)


def _check_strategies(config: RunConfig, fail: Any) -> None:
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
    if config.model.trained_layers and config.model.freeze == "none":
        fail("model.trained_layers", config.model.trained_layers, "nothing is frozen", 'set model.freeze = "encoder"')


def _check_task(name: str, data: DataSection, base: Path | None, fail: Any) -> None:
    if name not in BUILT_IN_TASKS:
        if ":" not in name:
            near = difflib.get_close_matches(name, BUILT_IN_TASKS, n=1, cutoff=0.3)
            hint = f"did you mean `{near[0]}`?" if near else f"one of {', '.join(BUILT_IN_TASKS)}, or module:function"
            fail("task.name", name, "no such task", hint)
        _check_own_task(name, base, fail)
    else:
        _check_data(data, base, fail)
        if name == "text-classification" and data.source in BUILT_IN_SOURCES:
            fail("data.source", data.source, "has no labels to classify", "name a CSV, TSV or JSONL file with labels")


def _check_bytes(key: str, text: str, fail: Any) -> None:
    try:
        size = parse_bytes(text)
    except ValueError as error:
        fail(key, text, str(error))
    else:
        if size <= 0:
            fail(key, text, "must be more than 0")


def _check_sizes(config: RunConfig, fail: Any) -> None:
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


def _check_duration(key: str, text: str, fail: Any) -> None:
    try:
        parse_duration(text)
    except ValueError as error:
        fail(key, text, str(error))


def _check_own_task(name: str, base: Path | None, fail: Any) -> None:
    module, _, function = name.partition(":")
    if not all(part.isidentifier() for part in module.split(".")) or not function.isidentifier():
        fail("task.name", name, "not of the form module:function")
    if base is not None:
        path = base.joinpath(*module.split("."))
        if not path.with_suffix(".py").exists() and not (path / "__init__.py").exists():
            fail("task.name", name, f"there is no {module.replace('.', '/')}.py in {base.resolve()}")


def _check_data(data: DataSection, base: Path | None, fail: Any) -> None:
    if data.source in BUILT_IN_SOURCES:
        if data.where:
            fail("data.where", data.where, f"`{data.source}` has no columns to choose rows by")
        return
    if base is not None and not resolve_path(data.source, base).is_file():
        near = difflib.get_close_matches(data.source, BUILT_IN_SOURCES, n=1, cutoff=0.6)
        hint = f"did you mean the built-in `{near[0]}`?" if near else f"relative paths start from {base.resolve()}"
        fail("data.source", data.source, "no such file", hint)
    if not data.format and data_format(data) == "":
        fail("data.source", data.source, "the ending says no known format", f"set data.format to one of {TEXT_FORMATS}")

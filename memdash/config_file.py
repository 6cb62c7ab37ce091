"""Reads a run config: overrides, validation, and one clear line for every mistake, before anything is started."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import msgspec

from memdash.config import SECTIONS, RunConfig, table_name
from memdash.config_checks import COMMAND_HINT, check
from memdash.errors import ConfigError


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

    def fail(key: str, value: object, why: str, hint: str = "") -> NoReturn:
        raise ConfigError(f"{where(key)}: `{key}` = {value!r}: {why}", hint=hint)

    check(config, base, fail)
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
    hint = COMMAND_HINT if path.startswith("run.command") else ""
    return ConfigError(f"{where(path)}: `{path}`{shown}: {expected}", hint=hint)


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

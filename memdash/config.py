"""The run config: its schema, validation and overrides.

A config is TOML. Every key has a default except those of `[model]` and `[data]` that a task asks for. Wrong
input raises ConfigError with the file, the line, the key and the value, before anything is started.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from memdash.batching import BatchSplit
from memdash.errors import ConfigError, PlanError
from memdash.units import parse_bytes

BUILT_IN_TASKS = ("language-modelling", "text-classification")
BUILT_IN_SOURCES = ("python-docs",)
TEXT_FORMATS = ("csv", "tsv", "jsonl", "text")


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One table of the file."""


class RunSection(Section, frozen=True, kw_only=True):
    """The run itself."""

    name: str = "run"
    """Shown everywhere; the run id is this name with the date and time."""
    seed: int = 0
    """Decides initial weights, dropout and the order of examples."""
    dir: str = ""
    """Where the run directory is made; empty = the state directory (`~/.local/state/memdash/runs`)."""


class TaskSection(Section, frozen=True, kw_only=True):
    """What is trained."""

    name: str = "language-modelling"
    """`language-modelling`, `text-classification`, or your own as `module:function`, found from the config's directory."""
    options: dict[str, Any] = {}
    """Handed to your own task as it is."""


class ModelSection(Section, frozen=True, kw_only=True):
    """Which model; a task of your own may ignore this table."""

    pretrained: str = ""
    """A local directory, `package:name/directory` or hub name for `from_pretrained`; empty = random weights."""
    architecture: str = "bert"
    """A `transformers` model type, used when `pretrained` is empty."""
    config: dict[str, Any] = {}
    """Fields of that architecture's config, such as `hidden_size = 128`; with `pretrained` they override its own."""


class DataSection(Section, frozen=True, kw_only=True):
    """Which examples."""

    source: str = "python-docs"
    """A .csv, .tsv, .jsonl or .txt file (relative to the config, or `package:name/file`), or the built-in `python-docs`."""
    format: Literal["", "csv", "tsv", "jsonl", "text"] = ""
    """Empty = from the file's ending."""
    text_column: str = "text"
    """The column or JSON key that holds the text."""
    label_column: str = "label"
    """The column or JSON key that holds the class, for classification."""
    where: dict[str, str] = {}
    """Keep only rows whose columns have these values."""
    max_examples: int = 0
    """Use only the first so many examples; 0 = all."""
    max_length: int = 128
    """Tokens per example; longer texts are cut (classification) or split into blocks (language modelling)."""
    vocab_size: int = 4000
    """Of the tokenizer that is trained on the texts when `tokenizer` and `model.pretrained` are empty."""
    tokenizer: str = ""
    """A local directory or hub name; empty = the pretrained model's own, or one trained at the start."""
    validation_fraction: float = 0.1
    """Share of the examples held out for evaluation; 0 = none."""


class TrainSection(Section, frozen=True, kw_only=True):
    """The training loop."""

    global_batch: int = 16
    """Examples per optimizer step over all ranks; nothing that memdash does changes it."""
    micro_batch: int = 0
    """Examples per forward on one rank; 0 = the whole group at once. Can be changed while the run goes on."""
    epochs: float = 1.0
    """Passes over the data, when `max_steps` is 0."""
    max_steps: int = 0
    """Optimizer steps; 0 = as many as `epochs` takes."""
    learning_rate: float = 5e-4
    """Peak learning rate."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay, not applied to biases and norms."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    max_grad_norm: float = 1.0
    """Gradient clipping over the whole group; 0 = off."""
    mlm_probability: float = 0.15
    """Share of tokens that masked language modelling hides."""
    eval_every: int = 0
    """Steps between evaluations; 0 = at the end only."""
    threads: int = 0
    """CPU threads for torch; 0 = torch's own choice."""


class DeviceSection(Section, frozen=True, kw_only=True):
    """Where it is trained."""

    kind: Literal["auto", "cuda", "cpu", "simulated"] = "auto"
    """`auto` = cuda where there is one, else cpu. `simulated` = the CPU with a device's memory limit enforced."""
    capacity: str = ""
    """Memory of the simulated device, such as `512MiB`; on cuda a cap for this process. Empty = the device's own."""


class CheckpointSection(Section, frozen=True, kw_only=True):
    """What is saved without being asked."""

    every_steps: int = 0
    """Steps between full checkpoints; 0 = none but the last."""
    keep_last: int = 2
    """Full checkpoints that are kept; those that were asked for by hand are never removed."""
    at_end: Literal["none", "light", "full"] = "light"
    """What is saved when the run finishes."""


class RunConfig(Section, frozen=True, kw_only=True):
    """A whole config file."""

    run: RunSection = RunSection()
    task: TaskSection = TaskSection()
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    train: TrainSection = TrainSection()
    device: DeviceSection = DeviceSection()
    checkpoint: CheckpointSection = CheckpointSection()

    @property
    def micro_batch(self) -> int:
        """The first micro-batch, with 0 resolved."""
        return self.train.micro_batch or self.train.global_batch


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


def config_schema() -> dict[str, Any]:
    """JSON Schema of a config file, with every field's docstring as its description."""
    schema = msgspec.json.schema(RunConfig)
    for name, definition in schema["$defs"].items():
        section = _SECTIONS.get(name)
        for field, text in _field_docs(section).items() if section else ():
            definition["properties"][field]["description"] = text
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "memdash run config", **schema}


def starter_config() -> str:
    """Every key with its default and what it means, as TOML."""
    lines = ["# A memdash run config: every key with its default.", "# Start it: memdash run THIS_FILE"]
    for section in _SECTIONS.values():
        docs = _field_docs(section)
        lines += ["", f"[{_table_name(section)}]"]
        for field in msgspec.structs.fields(section):
            lines += [f"# {docs[field.name]}", f"{field.name} = {_toml(field.default)}"]
    return "\n".join(lines) + "\n"


def _table_name(section: type[Section]) -> str:
    return section.__name__.removesuffix("Section").lower()


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    return f'"{value}"' if isinstance(value, str) else "{}"


_SECTIONS: dict[str, type[Section]] = {
    section.__name__: section
    for section in (
        RunSection,
        TaskSection,
        ModelSection,
        DataSection,
        TrainSection,
        DeviceSection,
        CheckpointSection,
    )
}


def _field_docs(section: type[Section]) -> dict[str, str]:
    """The string under each field of a section, from its source."""
    import ast
    import inspect

    body = ast.parse(inspect.getsource(section)).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                docs[field.target.id] = str(text.value.value)
    return docs


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
    expected = message[0].lower() + message[1:] if message else "not valid"
    value = _lookup(table, path)
    shown = f" = {value!r}" if value is not None and not isinstance(value, dict) else ""
    return ConfigError(f"{where(path)}: `{path}`{shown}: {expected}")


def _known_keys(path: str) -> list[str]:
    section = RunConfig.__annotations__ if not path else _SECTIONS[f"{path.capitalize()}Section"].__annotations__
    return list(section)


def _sections_with(key: str) -> list[str]:
    return [_table_name(section) for section in _SECTIONS.values() if key in section.__annotations__]


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

    train, data, device, task = config.train, config.data, config.device, config.task
    positive = {
        "train.global_batch": train.global_batch,
        "train.learning_rate": train.learning_rate,
        "data.max_length": data.max_length,
        "checkpoint.keep_last": config.checkpoint.keep_last,
    }
    not_negative = {
        "train.micro_batch": train.micro_batch,
        "train.max_steps": train.max_steps,
        "train.warmup_steps": train.warmup_steps,
        "train.weight_decay": train.weight_decay,
        "train.max_grad_norm": train.max_grad_norm,
        "train.eval_every": train.eval_every,
        "train.threads": train.threads,
        "data.max_examples": data.max_examples,
        "checkpoint.every_steps": config.checkpoint.every_steps,
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
    _check_capacity(device, fail)
    if task.name not in BUILT_IN_TASKS:
        if ":" not in task.name:
            near = difflib.get_close_matches(task.name, BUILT_IN_TASKS, n=1, cutoff=0.3)
            hint = f"did you mean `{near[0]}`?" if near else f"one of {', '.join(BUILT_IN_TASKS)}, or module:function"
            fail("task.name", task.name, "no such task", hint)
        _check_own_task(task.name, base, fail)
    else:
        _check_data(data, base, fail)
        if task.name == "text-classification" and data.source in BUILT_IN_SOURCES:
            fail("data.source", data.source, "has no labels to classify", "name a CSV, TSV or JSONL file with labels")


def _check_capacity(device: DeviceSection, fail: Any) -> None:
    if device.capacity:
        try:
            capacity = parse_bytes(device.capacity)
        except ValueError as error:
            fail("device.capacity", device.capacity, str(error))
        else:
            if capacity <= 0:
                fail("device.capacity", device.capacity, "must be more than 0")
    elif device.kind == "simulated":
        fail("device.capacity", "", "a simulated device needs a capacity", 'such as capacity = "2GiB"')


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
        return
    if base is not None and not resolve_path(data.source, base).is_file():
        near = difflib.get_close_matches(data.source, BUILT_IN_SOURCES, n=1, cutoff=0.6)
        hint = f"did you mean the built-in `{near[0]}`?" if near else f"relative paths start from {base.resolve()}"
        fail("data.source", data.source, "no such file", hint)
    if not data.format and data_format(data) == "":
        fail("data.source", data.source, "the ending says no known format", f"set data.format to one of {TEXT_FORMATS}")


def resolve_path(text: str, base: Path) -> Path:
    """A path of the config: relative to `base`, `~`, or `package:name/file` inside an installed package."""
    if not text.startswith("package:"):
        return base / Path(text).expanduser()
    name, _, inside = text.removeprefix("package:").partition("/")
    found = importlib.util.find_spec(name) if name.isidentifier() else None  # looks, but imports nothing
    folders = found.submodule_search_locations if found else None
    return Path(folders[0], inside) if folders else base / text


def data_format(data: DataSection) -> str:
    """`csv`, `tsv`, `jsonl` or `text`; empty when neither `format` nor the file's ending says."""
    endings = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".txt": "text", ".md": "text"}
    return data.format or endings.get(Path(data.source).suffix.lower(), "")

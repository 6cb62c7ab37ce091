"""A config as text for people and editors: the starter file with every key, and the JSON Schema."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from memdash.config import SECTIONS, RunConfig, Section, table_name


def config_schema() -> dict[str, Any]:
    """JSON Schema of a config file, with every field's docstring as its description."""
    schema = msgspec.json.schema(RunConfig)
    for name, definition in schema["$defs"].items():
        section = SECTIONS.get(name)
        for field, text in _field_docs(section).items() if section else ():
            definition["properties"][field]["description"] = text
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "memdash run config", **schema}


STARTER = {
    "run.name": "first",
    "model.config": "{ num_hidden_layers = 2, hidden_size = 128, num_attention_heads = 4, intermediate_size = 512 }",
    "data.max_length": 64,
    "train.learning_rate": 1e-3,
}
"""Where the starter config differs from the defaults: a model that trains in a minute or two on a laptop."""


def starter_config(changes: Mapping[str, Any] | None = None, about: Sequence[str] = ()) -> str:
    """Every key with what it means, as TOML; the values train a small model, with `changes` that `about` tells of."""
    values = STARTER | dict(changes or {})
    lines = ["# A memdash run config with every key; the values train a small BERT on Python's own manual."]
    lines += [f"# {line}" for line in about]
    lines += ["# Start it: memdash run THIS_FILE"]
    for section in SECTIONS.values():
        docs = _field_docs(section)
        lines += ["", f"[{table_name(section)}]"]
        for field in msgspec.structs.fields(section):
            default = field.default_factory() if callable(field.default_factory) else field.default
            starter = values.get(f"{table_name(section)}.{field.name}", default)
            lines += [f"# {docs[field.name]}{_choices(section, field.name)}", f"{field.name} = {_toml(starter)}"]
    return "\n".join(lines) + "\n"


def _choices(section: type[Section], key: str) -> str:
    hint = get_type_hints(section)[key]
    values = ", ".join(map(repr, get_args(hint))) if get_origin(hint) is Literal else ""
    return f" One of {values}." if values else ""


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return value if value.startswith("{") else f'"{value}"'
    return "[]" if isinstance(value, list) else "{}"


def _field_docs(section: type[Section]) -> dict[str, str]:
    """The string under each field of a section, from its source."""
    body = ast.parse(inspect.getsource(section)).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                docs[field.target.id] = str(text.value.value)
    return docs

"""Reads aspect quadruples: JSON lines of a text with a `Quadruplet` list, each mistake told with its file and line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from memdash.config import data_format
from memdash.errors import UsageError
from runner.spec import Spec
from runner.tasks.made_aspects import make_aspects
from runner.tasks.sources import json_lines

EXAMPLE_KEYS = ("ID", "Text", "Quadruplet")
QUADRUPLE_KEYS = ("Aspect", "Opinion", "Category", "VA")
NULL = "NULL"  # an aspect or opinion that is meant and not said, as such data sets write it
LEAST, MOST = 1.0, 9.0  # of valence and arousal
Characters = tuple[int, int]
"""`[start, stop)` in the text; (0, 0) for what is not said."""


@dataclass(frozen=True)
class Quadruple:
    """What is said about what."""

    aspect: Characters
    opinion: Characters
    category: str
    valence: float
    arousal: float
    """Both from 1 to 9."""


@dataclass(frozen=True)
class Example:
    """One text with everything that it says."""

    text: str
    quadruples: tuple[Quadruple, ...]
    line: int
    """Of its file."""


def read_quadruples(spec: Spec) -> list[Example]:
    """All examples that the config asks for. Raises UsageError with file and line."""
    data = spec.config.data
    if data.where:
        raise UsageError(f"data.where = {data.where}: quadruples have no columns to choose by")
    if data.source == "aspects":
        examples = [_example(record, number, "aspects") for number, record in enumerate(make_aspects(), 1)]
    else:
        path = spec.path(data.source)
        if data_format(data) != "jsonl":
            raise UsageError(
                f"data.source = {data.source!r}: quadruples are read from JSON lines", hint='set data.format = "jsonl"'
            )
        examples = list(_from_file(path, data.source))
    return examples[: data.max_examples] if data.max_examples else examples


def _from_file(path: Path, name: str) -> Iterator[Example]:
    empty = True
    try:
        for number, record in json_lines(path):
            empty = False
            yield _example(record, number, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"data.source = {name!r}: cannot be read: {error}") from None
    if empty:
        raise UsageError(f"{path}: no rows")


def _example(record: dict[str, Any], line: int, file: str) -> Example:
    place = f"{file}:{line}"
    _check_keys(record, EXAMPLE_KEYS, place, optional=("ID",))
    text, found = record["Text"], record["Quadruplet"]
    if not isinstance(text, str) or not text.strip():
        _fail(place, "Text", text, "expected a text that is not empty")
    if not isinstance(found, list) or not found:
        _fail(place, "Quadruplet", found, "expected a list of at least one quadruple")
    return Example(text, tuple(_quadruple(entry, text, place) for entry in found), line)


def _quadruple(entry: Any, text: str, place: str) -> Quadruple:
    if not isinstance(entry, dict):
        _fail(place, "Quadruplet", entry, "expected objects in the list")
    _check_keys(entry, QUADRUPLE_KEYS, place)
    for key in QUADRUPLE_KEYS:
        if not isinstance(entry[key], str) or not entry[key].strip():
            _fail(place, key, entry[key], "expected a text that is not empty")
    aspect, opinion = (_find(entry[key], text, key, place) for key in ("Aspect", "Opinion"))
    return Quadruple(aspect, opinion, entry["Category"], *_valence_arousal(entry["VA"], place))


def _find(span: str, text: str, key: str, place: str) -> Characters:
    """Where it is: as whole words where there are such, else wherever it comes first."""
    if span == NULL:
        return 0, 0
    whole = re.search(rf"(?<![\w-]){re.escape(span)}(?![\w-])", text)
    start = whole.start() if whole else text.find(span)
    if start < 0:
        _fail(place, key, span, f"is not in the text {_short(text)!r}")
    return start, start + len(span)


def _valence_arousal(text: str, place: str) -> tuple[float, float]:
    try:
        valence, arousal = map(float, text.split("#"))
    except ValueError:
        _fail(place, "VA", text, "expected valence#arousal, such as 7.50#6.25")
    if not (LEAST <= valence <= MOST and LEAST <= arousal <= MOST):  # also where one is no number
        _fail(place, "VA", text, f"both must be from {LEAST:g} to {MOST:g}")
    return valence, arousal


def _check_keys(record: dict[str, Any], known: tuple[str, ...], place: str, optional: tuple[str, ...] = ()) -> None:
    for key in record:
        if key not in known:
            raise UsageError(f"{place}: unknown key {key!r}; there are: {', '.join(known)}")
    for key in known:
        if key not in record and key not in optional:
            raise UsageError(f"{place}: no key {key!r}; there are: {', '.join(map(str, record))}")


def _fail(place: str, key: str, value: object, why: str) -> NoReturn:
    raise UsageError(f"{place}: {key} = {_short(str(value))!r}: {why}")


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."

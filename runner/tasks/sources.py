"""Reads rows of text, and perhaps labels, from files or from what is built in."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memdash.config import data_format
from memdash.errors import UsageError
from runner.randomness import permutation
from runner.spec import Spec
from runner.tasks.made_aspects import make_aspects

PARAGRAPHS_OF: tuple[str, ...] = ("compound", "debugger", "formatstrings", "specialnames", "string-methods")
PARAGRAPHS_OF += ("types", "typesmapping", "typesseq")
SHORTEST_PARAGRAPH = 40  # characters: below it there are headings and single words of code


@dataclass(frozen=True)
class Row:
    """One text; `label` is empty where there are none."""

    text: str
    label: str = ""
    line: int = 0
    """Of the file, where it ends; 0 = it has none."""


def read_rows(spec: Spec, *, labels: bool) -> list[Row]:
    """All rows that the config asks for. Raises UsageError with file, line and column."""
    data = spec.config.data
    if data.source == "python-docs":
        return _python_paragraphs() if labels else _python_docs()
    if data.source == "aspects":
        return [Row(example["Text"]) for example in make_aspects()]
    path = spec.path(data.source)
    kind = data_format(data)
    try:
        if kind == "text":
            return [Row(path.read_text(encoding="utf-8"))]
        records = json_lines(path) if kind == "jsonl" else _table(path, "\t" if kind == "tsv" else ",")
        return list(_choose(records, spec, path, labels=labels))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"data.source = {data.source!r}: cannot be read: {error}") from None


def hold_out(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Training and validation rows, drawn by the seed alone; at least one row is left to train on."""
    order = permutation(count, seed, "held out")
    held = min(round(count * fraction), count - 1)
    return sorted(order[held:]), sorted(order[:held])


def _python_docs() -> list[Row]:
    """The topics of `help()`: 454 kB of English that every CPython carries."""
    from pydoc_data.topics import topics

    return [Row(topics[name]) for name in sorted(topics)]


def _python_paragraphs() -> list[Row]:
    """The paragraphs of some large topics, each with the topic that it is about as its label."""
    from pydoc_data.topics import topics

    return [
        Row(paragraph, topic)
        for topic in PARAGRAPHS_OF
        for paragraph in topics.get(topic, "").split("\n\n")
        if len(paragraph.strip()) >= SHORTEST_PARAGRAPH
    ]


def _table(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(sys.maxsize)
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        for record in reader:
            yield reader.line_num, record


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each object of a file with the number of its line, from 1. Raises UsageError."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise UsageError(f"{path}:{number}: not JSON: {error}") from None
            if not isinstance(record, dict):
                raise UsageError(f"{path}:{number}: not a JSON object")
            yield number, record


def _choose(records: Iterator[tuple[int, dict[str, Any]]], spec: Spec, path: Path, *, labels: bool) -> Iterator[Row]:
    """The rows that pass `data.where`, with the columns that the task needs."""
    data = spec.config.data
    needed = {data.text_column: "data.text_column", **dict.fromkeys(data.where, "data.where")}
    if labels:
        needed[data.label_column] = "data.label_column"
    empty = True
    for number, record in records:
        for column, key in needed.items():
            if record.get(column) is None:
                there = ", ".join(str(name) for name in record if name is not None)
                raise UsageError(f"{path}:{number}: no column {column!r} ({key}); there are: {there}")
        if any(str(record[column]) != value for column, value in data.where.items()):
            continue
        empty = False
        label = str(record[data.label_column]) if labels else ""
        if labels and not label.strip():
            raise UsageError(f"{path}:{number}: the label in column {data.label_column!r} is empty")
        yield Row(str(record[data.text_column]), label, number)
    if empty:
        raise UsageError(f"{path}: no rows" + (f" where {data.where}" if data.where else ""))

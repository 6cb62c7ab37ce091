"""Finds the task that a config names: a built-in one, or the user's own function."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from memdash.errors import UsageError
from runner.spec import Spec
from runner.tasks.protocol import REQUIRED, Task
from runner.tasks.selection import select


def open_task(spec: Spec, tokenizer: Path | None = None) -> Task:
    """The task, with the examples that the config uses. A resumed run takes the `tokenizer` or vocabulary of its checkpoint."""
    return select(_open(spec, tokenizer), spec.config)


def _open(spec: Spec, tokenizer: Path | None) -> Task:
    if spec.config.task.name == "language-modelling":
        from runner.tasks.language_modelling import LanguageModelling

        return LanguageModelling(spec, tokenizer)
    if spec.config.task.name == "text-classification":
        from runner.tasks.text_classification import TextClassification

        return TextClassification(spec, tokenizer)
    if spec.config.task.name == "aspects":
        from runner.tasks.aspects import Aspects

        return Aspects(spec, tokenizer)
    if spec.config.task.name == "signal-to-text":
        from runner.tasks.signal_to_text import SignalToText

        return SignalToText(spec, tokenizer)
    return _own_task(spec)


def _own_task(spec: Spec) -> Task:
    """Call the user's function. Its own errors keep their traceback; only what is missing is told in one line."""
    name = spec.config.task.name
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, str(spec.base_dir))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and module_name.split(".")[0] == error.name.split(".")[0]:
            raise UsageError(f"task.name = {name!r}: there is no module {error.name} in {spec.base_dir}") from None
        raise
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"task.name = {name!r}: {module.__file__} has no function {function_name}")
    task: Task = function(dict(spec.config.task.options), spec.config)
    missing = [member for member in REQUIRED if not hasattr(task, member)]
    if missing:
        raise UsageError(
            f"task.name = {name!r}: the task lacks {', '.join(missing)}", hint="see runner/tasks/protocol.py"
        )
    return task

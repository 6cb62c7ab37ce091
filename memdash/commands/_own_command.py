"""A program of the user's own on the command line: `memdash run [options] -- python train.py`, and the config that makes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path, PurePath

from memdash.config import RunConfig, RunSection, changed_keys
from memdash.config_file import override_config


def from_command_line(command: Sequence[str], overrides: Sequence[str]) -> tuple[RunConfig, str]:
    """Its config, and that as TOML for the run's directory. Raises ConfigError."""
    config = RunConfig(run=RunSection(name=run_name(command), command=list(command)))
    config = override_config(config, overrides, Path.cwd())
    return config, as_toml(config)


def run_name(command: Sequence[str]) -> str:
    """`python -u src/train.py --lr 1` -> `train`, `python -m mine.train` -> `mine.train`, `./fit` -> `fit`."""
    names = [PurePath(part) for part in command]
    script = next((name.stem for name in names if name.suffix in (".py", ".sh")), "")
    module = next((after for before, after in itertools.pairwise(command) if before == "-m"), "")
    return script or module or names[0].name or "run"


def as_toml(config: RunConfig) -> str:
    """Every key that is not its default; what a command line can set is written in TOML as it is in JSON."""
    lines = ["# as it was given to `memdash run ... -- COMMAND`"]
    tables = itertools.groupby(changed_keys(config).items(), key=lambda item: item[0].partition(".")[0])
    for table, items in tables:
        lines += ["", f"[{table}]"]
        lines += [f"{key.partition('.')[2]} = {_toml(value)}" for key, value in items]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")

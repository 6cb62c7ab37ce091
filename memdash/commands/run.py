"""Start a training run and watch it.

The run is started under a supervisor of its own and goes on when the dashboard is closed or the terminal vanishes;
`memdash attach` finds it again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from memdash.errors import ExitCode

if TYPE_CHECKING:
    from memdash.config import RunConfig
    from memdash.store.run_directory import RunDirectory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("config", type=Path, help="a TOML run config; `memdash init` writes one")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key, such as train.micro_batch=4; may be given often",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--headless", action="store_true", help="print lines instead of the dashboard; exit with the outcome"
    )
    how.add_argument("--detach", action="store_true", help="start the run and return at once")


def run(args: argparse.Namespace) -> int:
    """Validate, create, launch, watch."""
    from memdash.commands._watch import terminal_problem, watch, watch_headless
    from memdash.config_file import load_config
    from memdash.supervisor.launch import launch_supervisor

    config = load_config(args.config, args.overrides)
    problem = "" if args.headless or args.detach else terminal_problem()
    directory = _create(args.config, config)
    launch_supervisor(directory)
    if args.detach:
        print(directory.run_id)
        return ExitCode.OK
    if args.headless or problem:
        return watch_headless(directory, note=problem)
    return watch(directory)


def _create(path: Path, config: RunConfig) -> RunDirectory:
    """The run's directory, holding everything that the supervisor and the training process need."""
    import sys
    import time

    import msgspec

    from memdash import __version__
    from memdash.locations import runs_dir
    from memdash.store.run_directory import RunRecord, create_run, new_run_id

    run_id = new_run_id(config.run.name)
    base = path.parent.resolve()
    parent = (base / Path(config.run.dir).expanduser()).absolute() if config.run.dir else runs_dir()
    trainer = [sys.executable, "-P", "-m", "runner", "--run-dir", str(parent / run_id), "--base-dir", str(base)]
    record = RunRecord(
        run_id=run_id,
        name=config.run.name,
        created_s=time.time(),
        argv=trainer,
        cwd=str(base),
        memdash_version=__version__,
    )
    return create_run(
        record,
        config_json=msgspec.json.format(msgspec.json.encode(config)),
        config_toml=path.read_text(encoding="utf-8"),
        parent=parent,
    )

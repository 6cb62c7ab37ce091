"""Start a training run and watch it, or go on with one that has ended.

The run is started under a supervisor of its own and goes on when the dashboard is closed or the terminal vanishes;
`memdash attach` finds it again.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from memdash.errors import ExitCode, SupervisorAlreadyRunning, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memdash.config import RunConfig
    from memdash.store.run_directory import RunDirectory, RunRecord

QUICK = (
    "data.subset_ratio=0.1",
    "train.max_steps=20",
    "train.eval_every=10",
    "checkpoint.every_steps=0",
    "checkpoint.every_minutes=0",
    "checkpoint.every_epoch=false",
    "checkpoint.keep_best=''",
    "checkpoint.at_end='none'",
)
"""What --quick sets; a --set beside it has the last word."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("config", nargs="?", type=Path, help="a TOML run config; `memdash init` writes one")
    what.add_argument(
        "--resume", metavar="RUN", help="go on with a run that has ended, exactly, from its last full checkpoint"
    )
    what.add_argument("--warm-start", metavar="RUN", help="go on from weights alone; says what is not the same")
    parser.add_argument(
        "--checkpoint", metavar="NAME", default="latest", help="which one to go on from; default: the last"
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key, such as train.micro_batch=4; may be given often",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="see whether it works at all: 20 steps on a tenth of the examples, saving nothing",
    )
    parser.add_argument(
        "--no-plan",
        action="store_true",
        default=bool(os.environ.get("MEMDASH_NO_PLAN")),
        help="start without looking whether it will fit; so does MEMDASH_NO_PLAN=1 in the environment",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--headless", action="store_true", help="print lines instead of the dashboard; exit with the outcome"
    )
    how.add_argument("--detach", action="store_true", help="start the run and return at once")
    how.add_argument(
        "--dry-run", action="store_true", help="check the config and say what would be started; start nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Validate, create or find, launch, watch."""
    from memdash.commands._before_start import before_start
    from memdash.commands._going_on import go_on, still_open
    from memdash.commands._signals import Signals
    from memdash.commands._watch import terminal_problem, watch, watch_headless
    from memdash.config_file import load_config
    from memdash.supervisor.launch import launch_supervisor

    if args.quick:
        if args.config is None:
            raise UsageError("--quick starts a new run", hint="give it a config")
        args.overrides = [*QUICK, *args.overrides]
    if args.dry_run:
        return _describe(args)
    problem = "" if args.headless or args.detach else terminal_problem()
    signals = Signals() if args.headless or problem else None
    began_s = time.time()
    again: Sequence[str] = ()
    if args.config is not None:
        config = load_config(args.config, args.overrides)
        check_torch()
        plan = None if args.no_plan else before_start(config, args.config, asks=not (signals or args.detach))
        if plan and not plan.goes_on:
            return ExitCode.OUT_OF_MEMORY
        directory = create(args.config, config)
        if plan and plan.message:
            directory.write_plan(plan.message)
    else:
        directory, again = go_on(args)
        if not again:
            return ExitCode.OK
    try:
        launch_supervisor(directory, again)
    except SupervisorAlreadyRunning:
        raise still_open(directory) from None
    if args.detach:
        print(directory.run_id)
        return ExitCode.OK
    if signals:
        return watch_headless(directory, note=problem, since_s=began_s, signals=signals)
    return watch(directory)


def check_torch() -> None:
    """The runner trains with torch; to find that out after a start would leave a failed run behind."""
    if importlib.util.find_spec("torch") is None:
        raise UsageError("torch is not installed here", hint="pip install 'memdash[train]'")


def create(path: Path, config: RunConfig) -> RunDirectory:
    """The run's directory, holding everything that the supervisor and the training process need."""
    from memdash.commands._going_on import as_json
    from memdash.store.run_directory import create_run

    check_torch()
    record, parent = _plan(path, config)
    text = path.read_text(encoding="utf-8")
    return create_run(record, config_json=as_json(config), config_toml=text, parent=parent)


def _plan(path: Path, config: RunConfig) -> tuple[RunRecord, Path]:
    """What a run of this config is, and the directory that its own is made in."""
    import sys

    from memdash import __version__
    from memdash.commands._going_on import limits
    from memdash.locations import runs_dir
    from memdash.store.run_directory import RunRecord, new_run_id

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
        **limits(config),
        memdash_version=__version__,
    )
    return record, parent


def _describe(args: argparse.Namespace) -> int:
    """What would be started, and every key that is not its default."""
    if args.config is None:
        from memdash.commands._going_on import go_on

        directory, again = go_on(args, dry=True)
        if again:
            print(f"one more attempt of {directory.run_id}: {' '.join(again)}")
        return ExitCode.OK
    from memdash.batching import BatchSplit
    from memdash.config import changed_keys
    from memdash.config_file import load_config
    from memdash.locations import socket_path

    config = load_config(args.config, args.overrides)
    record, parent = _plan(args.config, config)
    print(f"run        {record.run_id} in {parent / record.run_id}")
    print(f"socket     {socket_path(record.run_id)}")
    print(f"starts     {' '.join(record.argv)}")
    print(f"split      {BatchSplit(config.train.global_batch, config.micro_batch)}")
    for key, value in changed_keys(config).items():
        print(f"{key:<28} {value!r}")
    return ExitCode.OK

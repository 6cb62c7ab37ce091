"""Start a training run and watch it, or go on with one that has ended.

`memdash run CONFIG` trains what a config says, `memdash run -- python train.py --lr 3e-4` runs a program of your own.
The run is started under a supervisor of its own and goes on when the dashboard is closed or the terminal vanishes;
`memdash attach` finds it again.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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
    parser.usage = "memdash run [options] (CONFIG | --resume RUN | --warm-start RUN | -- COMMAND ...)"
    what = parser.add_mutually_exclusive_group()
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
    from memdash.supervisor.launch import launch_supervisor

    _check(args)
    if args.quick:
        args.overrides = [*QUICK, *args.overrides]
    if args.dry_run:
        return _describe(args)
    problem = "" if args.headless or args.detach else terminal_problem()
    signals = Signals() if args.headless or problem else None
    began_s = time.time()
    again: Sequence[str] = ()
    if wanted := _wanted(args):
        check_torch(wanted.config)
        plan = None if args.no_plan else before_start(wanted.config, wanted.path, asks=not (signals or args.detach))
        if plan and not plan.goes_on:
            return ExitCode.OUT_OF_MEMORY
        directory = create(wanted)
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


class Wanted(NamedTuple):
    """A run that is to be started."""

    config: RunConfig
    path: Path
    """The config file, beside which relative paths start; of a command line, one that could be here."""
    toml: str


def read(path: Path, overrides: Sequence[str]) -> Wanted:
    """What a config file says. Raises ConfigError."""
    from memdash.config_file import load_config

    if path.suffix == ".py":
        raise UsageError(f"{path} is a program, not a config", hint=f"run it: memdash run -- python {path}")
    return Wanted(load_config(path, overrides), path, path.read_text(encoding="utf-8"))


def _check(args: argparse.Namespace) -> None:
    """Raises UsageError where options do not go together."""
    named = args.config or args.resume or args.warm_start
    if args.command is None:
        if not named:
            raise UsageError("there is nothing to run", hint="name a config, --resume RUN, or -- python train.py")
        if args.quick and args.config is None:
            raise UsageError("--quick starts a new run", hint="give it a config")
        return
    if named:
        hint = 'in a config it is `[run] command`; to override that: --set run.command=\'["python", "train.py"]\''
        raise UsageError(f"{named} and a command after --: only one of them can be run", hint=hint)
    if not args.command:
        raise UsageError("there is no command after --", hint="such as: memdash run -- python train.py")
    if args.quick or args.checkpoint != "latest":
        option = "--quick" if args.quick else "--checkpoint"
        raise UsageError(f"{option} is for memdash's own runner", hint="a program of yours has options of its own")


def _wanted(args: argparse.Namespace) -> Wanted | None:
    """The run to be started; None where one that is there goes on. Raises ConfigError."""
    if args.command:
        from memdash.commands._own_command import from_command_line

        config, toml = from_command_line(args.command, args.overrides)
        return Wanted(config, Path("memdash.toml"), toml)
    return read(args.config, args.overrides) if args.config is not None else None


def check_torch(config: RunConfig | None = None) -> None:
    """The runner trains with torch; to find that out after a start would leave a failed run behind."""
    if config is not None and config.run.command:
        return
    if importlib.util.find_spec("torch") is None:
        raise UsageError("torch is not installed here", hint="pip install 'memdash[train]'")


def create(wanted: Wanted) -> RunDirectory:
    """The run's directory, holding everything that the supervisor and the training process need."""
    from memdash.commands._going_on import as_json
    from memdash.store.run_directory import create_run

    record, parent = _plan(wanted.path, wanted.config)
    return create_run(record, config_json=as_json(wanted.config), config_toml=wanted.toml, parent=parent)


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
        argv=config.run.command or trainer,
        own_command=bool(config.run.command),
        cwd=str(base),
        **limits(config),
        memdash_version=__version__,
    )
    return record, parent


def _describe(args: argparse.Namespace) -> int:
    """What would be started, and every key that is not its default."""
    wanted = _wanted(args)
    if wanted is None:
        from memdash.commands._going_on import go_on

        directory, again = go_on(args, dry=True)
        if again:
            what = "the same command" if directory.record().own_command else " ".join(again)
            print(f"one more attempt of {directory.run_id}: {what}")
        return ExitCode.OK
    import shlex

    from memdash.batching import BatchSplit
    from memdash.config import changed_keys
    from memdash.locations import socket_path

    config = wanted.config
    record, parent = _plan(wanted.path, config)
    print(f"run        {record.run_id} in {parent / record.run_id}")
    print(f"socket     {socket_path(record.run_id)}")
    print(f"starts     {shlex.join(record.argv)}")
    if not record.own_command:
        print(f"split      {BatchSplit(config.train.global_batch, config.micro_batch)}")
    for key, value in changed_keys(config).items():
        print(f"{key:<28} {value!r}")
    return ExitCode.OK

"""Delete runs that are over: their record, output and checkpoints; says how much room that gives back."""

from __future__ import annotations

import argparse
from pathlib import Path

from memdash.errors import ExitCode, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("run", nargs="+", help="run ids, or their beginnings")


def run(args: argparse.Namespace) -> int:
    """All of them or, when one is live or unknown, none."""
    from memdash.commands._live import is_live
    from memdash.store.run_directory import find_run, remove_run
    from memdash.supervisor.launch import dismiss_supervisor, is_supervised
    from memdash.units import format_bytes

    runs = [find_run(name) for name in args.run]
    for directory in runs:
        if is_live(directory):
            raise UsageError(f"{directory.run_id} is live", hint=f"end it first: memdash stop {directory.run_id}")
    for directory in runs:
        if is_supervised(directory) and not dismiss_supervisor(directory):
            raise UsageError(f"{directory.run_id} is open in a dashboard that does not close")
        size = sum(path.stat().st_size for path in Path(directory.path).rglob("*") if path.is_file())
        remove_run(directory)
        print(f"{directory.run_id}: deleted, {format_bytes(size)}")
    return ExitCode.OK

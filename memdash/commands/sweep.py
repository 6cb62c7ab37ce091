"""Run several configs one after another, and compare what they came to.

Each is planned first, and one that cannot fit is left out with the reason; so is one with a mistake, and a run that
fails does not end the sweep. Ctrl-C does: the run that is going on goes on, and the line says how to come back to it.
SIGTERM stops that run after a full checkpoint, and the sweep with it.

Exit code 0: every config that was run finished, whatever was left out for its size; otherwise that of the first that did not
(as of `memdash run`), 2 for a mistake in a config, 12 when none was run because none fits, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memdash.commands.run import QUICK, check_torch, create, read
from memdash.errors import ExitCode, MemdashError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memdash.commands._comparison import Row
    from memdash.commands._signals import Signals
    from memdash.commands.run import Wanted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("configs", nargs="+", type=Path, metavar="CONFIG", help="TOML run configs, run in this order")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key of all, such as train.micro_batch=4; may be given often",
    )
    parser.add_argument(
        "--quick", action="store_true", help="of each 20 steps on a tenth of the examples, saving nothing"
    )
    parser.add_argument("--no-plan", action="store_true", help="run each, whether it fits or not")
    parser.add_argument(
        "--json", action="store_true", help="the comparison as JSON on standard output, all else on error"
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the comparison as CSV, too")


def run(args: argparse.Namespace) -> int:
    """Check all, then plan and run each, then compare."""
    from memdash.commands._comparison import as_json, lines, write_csv
    from memdash.commands._signals import Signals

    check_torch()
    if args.csv and not args.csv.absolute().parent.is_dir():
        raise UsageError(f"--csv {args.csv}: there is no such directory")
    overrides = [*QUICK, *args.overrides] if args.quick else args.overrides
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        rows = _Sweep(args.configs, overrides, plans=not args.no_plan, signals=Signals()).run()
    if args.csv:
        write_csv(rows, args.csv)
    print(as_json(rows) if args.json else "\n".join(("", *lines(rows))))
    return exit_code(rows)


def exit_code(rows: Sequence[Row]) -> int:
    """Of the whole sweep."""
    if any(row.exit_code == ExitCode.INTERRUPTED for row in rows):
        return ExitCode.INTERRUPTED
    unfinished = [row.exit_code for row in rows if row.run_id and row.exit_code]
    mistakes = [row.exit_code for row in rows if row.outcome == "mistake"]
    if not any(row.run_id for row in rows):
        return (mistakes or [ExitCode.OUT_OF_MEMORY])[0]
    return (unfinished or mistakes or [ExitCode.OK])[0]


class _Sweep:
    """Goes through the configs, one row of the comparison for each."""

    def __init__(self, paths: Sequence[Path], overrides: Sequence[str], *, plans: bool, signals: Signals) -> None:
        self._overrides = overrides
        self._plans = plans
        self._signals = signals
        stems = [path.stem for path in paths]
        self._paths = {
            stem if stems.count(stem) == 1 else str(path): path for stem, path in zip(stems, paths, strict=True)
        }

    def run(self) -> list[Row]:
        """All of them, or up to Ctrl-C."""
        from memdash.commands._comparison import Row

        found: dict[str, Row] = {}
        for name, wanted in self._read(found).items():
            if self._signals.stopping:
                break
            try:
                found[name] = self._one(name, wanted)
            except KeyboardInterrupt:  # while it was planned or started
                found[name] = Row(name, "interrupted", exit_code=ExitCode.INTERRUPTED)
            if found[name].exit_code == ExitCode.INTERRUPTED:
                break
        return [found.get(name) or Row(name, "not run", why="the sweep was stopped before it") for name in self._paths]

    def _read(self, found: dict[str, Row]) -> dict[str, Wanted]:
        """Those without a mistake; the others are told before anything starts."""
        from memdash.commands._comparison import Row

        good = {}
        for name, path in self._paths.items():
            try:
                good[name] = read(path, self._overrides)
            except MemdashError as error:
                found[name] = Row(name, "mistake", why=_in_a_line(error), exit_code=error.exit_code)
                print(f"{name}: left out: {_in_a_line(error)}", flush=True)
        return good

    def _one(self, name: str, wanted: Wanted) -> Row:
        """Plan it, run it where it fits, and see what it came to."""
        from memdash.commands._before_start import plan_of
        from memdash.commands._comparison import Row

        plan: dict[str, Any] | None = None
        if self._plans:
            print(f"{name}: looking whether it fits", flush=True)
            try:
                plan = plan_of(wanted.config, wanted.path)
            except UsageError as error:
                print(f"{name}: left out: {_in_a_line(error)}", flush=True)
                return Row(name, "mistake", why=_in_a_line(error), exit_code=error.exit_code)
            except MemdashError as error:
                print(f"{name}: there is no plan, so it is run to see: {error}", flush=True)
        if plan is not None:
            from memdash.commands._planning import configured, headline

            verdict = headline(plan)
            print(f"{name}: {verdict}", flush=True)
            if configured(plan)["verdict"] == "oom":
                return Row.left_out(name, plan, verdict.removeprefix("plan: "))
        if self._signals.stopping:
            return Row(name, "not run", why="the sweep was stopped before it")
        return self._train(name, wanted, plan)

    def _train(self, name: str, wanted: Wanted, plan: dict[str, Any] | None) -> Row:
        """A run like any other, watched to its end."""
        from memdash.commands._comparison import Row
        from memdash.commands._plan_page import advice
        from memdash.commands._planning import as_message
        from memdash.commands._watch import watch_headless
        from memdash.supervisor.launch import launch_supervisor

        began_s = time.time()
        directory = create(wanted)
        if plan is not None:
            directory.write_plan(as_message(plan, list(advice(plan))))
        launch_supervisor(directory)
        code = watch_headless(directory, since_s=began_s, signals=self._signals, name=name)
        return Row.of_run(name, directory, code, plan)


def _in_a_line(error: MemdashError) -> str:
    return f"{error}" + (f" ({error.hint})" if error.hint else "")

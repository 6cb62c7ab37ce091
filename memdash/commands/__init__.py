"""The command line: one verb per file; its docstring is its help, its heavy imports are inside run()."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Protocol

from memdash.commands import (
    attach,
    batch,
    checkpoint,
    checkpoints,
    doctor,
    empty_cache,
    init,
    logs,
    ls,
    memory_snapshot,
    pause,
    plan,
    replay,
    report,
    resume,
    rm,
    run,
    schema,
    stop,
    supervise,
    sweep,
)
from memdash.errors import ExitCode, MemdashError


class Verb(Protocol):
    """A module of this package; its docstring is the verb's help."""

    def add_arguments(self, parser: argparse.ArgumentParser, /) -> None:
        """Declare the verb's options."""

    def run(self, args: argparse.Namespace, /) -> int:
        """Do it; the exit code. Raises MemdashError."""


VERBS: dict[str, Verb] = {
    "plan": plan,
    "run": run,
    "sweep": sweep,
    "attach": attach,
    "ls": ls,
    "pause": pause,
    "resume": resume,
    "batch": batch,
    "checkpoint": checkpoint,
    "checkpoints": checkpoints,
    "empty-cache": empty_cache,
    "memory-snapshot": memory_snapshot,
    "stop": stop,
    "logs": logs,
    "report": report,
    "replay": replay,
    "rm": rm,
    "doctor": doctor,
    "init": init,
    "schema": schema,
    "supervise": supervise,
}
HIDDEN = {"supervise"}


def main(argv: Sequence[str] | None = None) -> int:
    """The `memdash` program. Every MemdashError of a verb ends here, as one line and its exit code."""
    parser = _parser()
    arguments, command = _split(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(arguments, argparse.Namespace(command=command))
    if args.verb is None:
        parser.print_help()
        print("\nBegin with: memdash init")
        return ExitCode.USAGE
    try:
        return int(VERBS[args.verb].run(args))
    except MemdashError as error:
        _complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has left; python would complain once more when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK


def _split(argv: Sequence[str]) -> tuple[Sequence[str], list[str] | None]:
    """`run OPTIONS -- COMMAND` in two: what is a program's own is no option of ours."""
    if argv[:1] != ["run"] or "--" not in argv:
        return argv, None
    at = list(argv).index("--")
    return argv[:at], list(argv[at + 1 :])


def _complain(error: MemdashError) -> None:
    print(f"memdash: {error}", file=sys.stderr)
    if error.hint:
        print(f"         {error.hint}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    from memdash import __version__

    parser = argparse.ArgumentParser(
        prog="memdash",
        description="Start, watch and control training runs on machines that run out of memory.",
        epilog="Exit codes: 0 done or finished, 1 error, 2 wrong use or config, 3 no supervisor, 4 command refused, "
        "5 unreadable run; of a run: 10 stopped, 11 failed, 12 out of memory, 13 killed, 14 killed by the "
        "kernel's OOM killer, 15 lost, 16 out of its wall budget.",
    )
    parser.add_argument("--version", action="version", version=f"memdash {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, verb in VERBS.items():
        text = (verb.__doc__ or "").strip()
        summary = text.partition("\n")[0]
        make = partial(verbs.add_parser, name, description=text, allow_abbrev=False)
        # without `help` the verb is not listed
        sub = make() if name in HIDDEN else make(help=summary)
        sub.formatter_class = argparse.RawDescriptionHelpFormatter
        verb.add_arguments(sub)
    return parser

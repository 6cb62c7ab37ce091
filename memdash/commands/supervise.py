"""Own a run's training process (started by `run` and `attach`, not by people)."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from memdash.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("run_dir", type=Path)
    parser.add_argument(
        "--ready-fd", type=int, default=None, help="go to the background and say there when the socket is up"
    )
    parser.add_argument(
        "again", nargs=argparse.REMAINDER, help="launch a run that is over once more, with these arguments"
    )


def run(args: argparse.Namespace) -> int:
    """Run until the run is over and nobody watches."""
    if args.ready_fd is not None:
        if os.fork():
            os._exit(0)
        os.chdir("/")
    from memdash.store.run_directory import RunDirectory
    from memdash.supervisor.main import supervise

    supervise(RunDirectory(args.run_dir), args.ready_fd, args.again)
    return ExitCode.OK

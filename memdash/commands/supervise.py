"""Own a run's training process (started by `run` and `attach`, not by people)."""

from __future__ import annotations

import argparse
from pathlib import Path

from memdash.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--ready-fd", type=int, default=None)


def run(args: argparse.Namespace) -> int:
    """Run until the run is over and nobody watches."""
    from memdash.store.run_directory import RunDirectory
    from memdash.supervisor.main import supervise

    supervise(RunDirectory(args.run_dir), args.ready_fd)
    return ExitCode.OK

"""Print what a run's training process has printed; -f follows it until the run is over."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from memdash.errors import ExitCode

if TYPE_CHECKING:
    from memdash.store.run_directory import RunDirectory

LOOK_EVERY_S = 0.2
CHUNK_BYTES = 1 << 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("run", nargs="?", help="a run id or its beginning; the newest run when none is named")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the run is over")


def run(args: argparse.Namespace) -> int:
    """Copy the log to stdout, byte for byte."""
    from memdash.store.run_directory import find_run

    directory = find_run(args.run)
    older = directory.output.with_name(directory.output.name + ".1")  # what a long log was cut to
    for path in (older, directory.output):
        position = _copy(path, 0)
    if args.follow:
        _follow(directory, position)
    return ExitCode.OK


def _follow(directory: RunDirectory, position: int) -> None:
    import time

    from memdash.wire import FINAL_STATUSES

    while True:
        state = directory.state()
        over = state is not None and state.status in FINAL_STATUSES
        size = directory.output.stat().st_size if directory.output.exists() else 0
        position = _copy(directory.output, 0 if size < position else position)
        if over:
            return
        time.sleep(LOOK_EVERY_S)


def _copy(path: os.PathLike[str], start: int) -> int:
    """Print a file from `start`; where it ends now."""
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        return start
    with file:
        file.seek(start)
        while data := file.read(CHUNK_BYTES):
            sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return file.tell()

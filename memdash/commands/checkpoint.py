"""Save a checkpoint at the next step boundary: light (weights only) or full."""

from __future__ import annotations

import argparse

from memdash.commands._request import add_run_argument, request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    add_run_argument(parser)
    parser.add_argument("--full", action="store_true", help="everything that an exact resume needs")


def run(args: argparse.Namespace) -> int:
    """Send the command and wait for the answer."""
    from memdash.client import new_command_id
    from memdash.wire import SaveCheckpoint

    return request(args, SaveCheckpoint(command_id=new_command_id(), kind="full" if args.full else "light"))

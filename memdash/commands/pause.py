"""Hold a run at its next step boundary; its memory stays where it is unless --release is given."""

from __future__ import annotations

import argparse

from memdash.commands._request import add_run_argument, request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    add_run_argument(parser)
    parser.add_argument(
        "--release",
        action="store_true",
        help="move model and optimizer state to host memory, so that others can use the device",
    )


def run(args: argparse.Namespace) -> int:
    """Send the command and wait for the answer."""
    from memdash.client import new_command_id
    from memdash.wire import Pause

    return request(args, Pause(command_id=new_command_id(), depth="release" if args.release else "hold"))

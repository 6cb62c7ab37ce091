"""End a run at its next step boundary, after saving a full checkpoint."""

from __future__ import annotations

import argparse

from memdash.commands._request import add_run_argument, request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    add_run_argument(parser)
    parser.add_argument("--save", choices=("full", "light", "none"), default="full", help="what is saved first")


def run(args: argparse.Namespace) -> int:
    """Send the command and wait for the answer."""
    from memdash.client import new_command_id
    from memdash.wire import Stop

    return request(args, Stop(command_id=new_command_id(), save=args.save))

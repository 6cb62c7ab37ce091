"""Change the micro-batch of a live run; the global batch stays what it is."""

from __future__ import annotations

import argparse

from memdash.commands._request import add_run_argument, request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    add_run_argument(parser)
    parser.add_argument("--micro-batch", type=int, required=True, metavar="N", help="examples per forward on one rank")


def run(args: argparse.Namespace) -> int:
    """Send the command and wait for the answer."""
    from memdash.client import new_command_id
    from memdash.wire import SetBatchSplit

    return request(args, SetBatchSplit(command_id=new_command_id(), micro_batch=args.micro_batch))

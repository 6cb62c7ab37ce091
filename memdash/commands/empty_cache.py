"""Give memory that a run has reserved but does not use back to the device."""

from __future__ import annotations

import argparse

from memdash.commands._request import add_run_argument, request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    add_run_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Send the command and wait for the answer."""
    from memdash.client import new_command_id
    from memdash.wire import EmptyCache

    return request(args, EmptyCache(command_id=new_command_id()))

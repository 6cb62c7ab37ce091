"""Write torch's memory snapshot of a run's device, to be opened at pytorch.org/memory_viz."""

from __future__ import annotations

import argparse

from memdash.commands._request import add_run_argument, request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    add_run_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Send the command and wait for the answer."""
    from memdash.client import new_command_id
    from memdash.wire import DumpMemorySnapshot

    return request(args, DumpMemorySnapshot(command_id=new_command_id()))

"""What the one-command verbs share: find the run, send one command, print its answer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from memdash.errors import CommandRefused, ExitCode

if TYPE_CHECKING:
    from memdash import wire

TIMEOUT_S = 1900.0  # a little longer than the supervisor's own limit for a full checkpoint


def add_run_argument(parser: argparse.ArgumentParser) -> None:
    """Which run, and how to print the answer."""
    parser.add_argument("run", nargs="?", help="a run id or its beginning; needed only when several runs are live")
    parser.add_argument("--json", action="store_true", help="print the answer as JSON")


def request(args: argparse.Namespace, command: wire.Command) -> int:
    """Print what was done. Raises CommandRefused when it was not."""
    import asyncio

    from memdash import wire
    from memdash.commands._live import live_run
    from memdash.store.run_directory import find_run

    directory = live_run() if args.run is None else find_run(args.run)
    result = asyncio.run(_ask(directory.run_id, command))
    if args.json:
        print(wire.encode(result).decode(), end="")
        return ExitCode.OK if result.ok else ExitCode.COMMAND
    if not result.ok:
        raise CommandRefused(f"{directory.run_id}: {result.command}: {result.text}")
    where = f" (step {result.applied_at_step})" if result.applied_at_step and "step" not in result.text else ""
    print(f"{directory.run_id}: {result.text}{where}")
    return ExitCode.OK


async def _ask(run_id: str, command: wire.Command) -> wire.CommandResult:
    from memdash.client import Client

    client = await Client.connect(run_id, follow=False)
    try:
        return await client.request(command, timeout_s=TIMEOUT_S)
    finally:
        await client.close()

"""List the runs, newest first: state, step, headroom, age, the time that training took."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from memdash.errors import ExitCode

if TYPE_CHECKING:
    from memdash import wire
    from memdash.store.run_directory import RunDirectory

ENDED_BADLY = ("failed", "oom", "killed", "lost")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line: the last RunState of each run")


def run(args: argparse.Namespace) -> int:
    """Print one line a run."""
    from memdash import wire
    from memdash.errors import StoreError
    from memdash.store.run_directory import list_runs

    if not args.json:
        print(f"{'RUN':<28} {'STATE':<10} {'STEP':>15} {'HEADROOM':>9} {'AGE':>7}  TOOK  WHY")
    for directory in list_runs():
        try:
            state = directory.state()
        except StoreError as error:
            print(f"{directory.run_id:<28} unreadable: {error}")
            continue
        if state is not None:
            print(wire.encode(state).decode().strip() if args.json else _line(directory, state))
    return ExitCode.OK


def _line(directory: RunDirectory, state: wire.RunState) -> str:
    import time

    from memdash import wire
    from memdash.units import format_clock, format_duration, format_percent

    shares = [
        headroom / memory.capacity_bytes
        for memory, headroom in (
            (state.memory, wire.device_headroom_bytes(state.memory)),
            (state.host, wire.host_headroom_bytes(state.host)),
        )
        if memory is not None and headroom is not None and memory.capacity_bytes
    ]
    now_s = time.time()
    live = state.status not in wire.FINAL_STATUSES
    status = state.status if not live or _served(directory) else f"{state.status}?"
    steps = f"{state.step}/{state.total_steps}" if state.total_steps else "-"
    why = state.status_reason.partition("\n")[0]
    took = format_clock(wire.attempt_s(state, now_s), state.past_s)
    return (
        f"{directory.run_id:<28} {status:<10} {steps:>15} "
        f"{format_percent(min(shares)) if live and shares else '-':>9} {format_duration(now_s - state.created_s):>7}  "
        f"{f'attempt {state.attempt}: {took}' if state.attempt else took}"
        f"{f'  {why}' if why and state.status in ENDED_BADLY else ''}"
    )


def _served(directory: RunDirectory) -> bool:
    """Whether a supervisor answers; a live state without one is shown with a question mark."""
    from memdash.locations import socket_path
    from memdash.supervisor.launch import listening

    return listening(socket_path(directory.run_id))

"""Open the dashboard of a run, live or over; the newest run when none is named."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("run", nargs="?", help="a run id, its beginning, or a run directory")
    parser.add_argument("--headless", action="store_true", help="print lines instead of the dashboard")


def run(args: argparse.Namespace) -> int:
    """Find the run, make sure that a supervisor serves it, watch."""
    from memdash.commands._live import live_or_newest
    from memdash.commands._watch import import_dashboard, terminal_problem, watch, watch_headless
    from memdash.errors import SupervisorAlreadyRunning
    from memdash.locations import socket_path
    from memdash.store.run_directory import find_run
    from memdash.supervisor.launch import launch_supervisor, listening

    directory = live_or_newest() if args.run is None else find_run(args.run)
    directory.record()  # says so when it cannot be read
    problem = terminal_problem()
    if not listening(socket_path(directory.run_id)):
        try:
            launch_supervisor(directory, meanwhile=(lambda: None) if args.headless or problem else import_dashboard)
        except SupervisorAlreadyRunning:
            pass  # it was about to listen
    if args.headless or problem:
        return watch_headless(directory, note="" if args.headless else problem)
    return watch(directory)

"""Play a recorded run in the dashboard: pause, seek, change the speed; the newest run when none is named."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from memdash.errors import ExitCode

if TYPE_CHECKING:
    from memdash.replay.player import Player


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("run", nargs="?", help="a run id, its beginning, or a run directory; live or over")
    parser.add_argument("--from", dest="begin", default="0s", metavar="TIME", help="begin there, such as 1h20m")
    parser.add_argument("--speed", type=float, help="1 to 1000; default: all of it in about two minutes")


def run(args: argparse.Namespace) -> int:
    """Read the record and hand it to the dashboard."""
    from memdash.errors import UsageError
    from memdash.replay.player import Player
    from memdash.replay.playhead import Playhead, speed_for
    from memdash.replay.timeline import Timeline
    from memdash.store.run_directory import find_run
    from memdash.tui.app import run_dashboard
    from memdash.tui.terminal import check_terminal
    from memdash.units import parse_duration

    directory = find_run(args.run)
    try:
        begin_s = parse_duration(args.begin)
    except ValueError as error:
        raise UsageError(str(error)) from None
    check_terminal(hint=f"what happened, in lines: memdash report {directory.run_id}")
    timeline = Timeline(directory)
    head = Playhead(timeline.start_s, timeline.end_s, timeline.start_s, playing=True)
    speed = speed_for(head.end_s - head.start_s) if args.speed is None else args.speed
    head = head.sought(head.start_s + begin_s).at_speed(speed, playing=True)

    async def connect() -> Player:
        return Player(timeline, head)

    run_dashboard(directory.run_id, connect)
    timeline.close()
    return ExitCode.OK

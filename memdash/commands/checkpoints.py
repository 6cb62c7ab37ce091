"""List a run's checkpoints, verify every byte of them, or export one for `from_pretrained`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from memdash.errors import CheckpointIncomplete, ExitCode

if TYPE_CHECKING:
    from memdash.checkpoints import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("run", nargs="?", help="a run id or its beginning; the newest run when none is named")
    parser.add_argument(
        "--verify", action="store_true", help="read every file and compare its SHA-256; 5 when one differs"
    )
    parser.add_argument(
        "--export", type=Path, metavar="DIR", help="copy one into a new directory for `from_pretrained`"
    )
    parser.add_argument(
        "--checkpoint", metavar="NAME", default="latest", help="which one to export; default: the newest"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Print one line a checkpoint."""
    from memdash.checkpoints import choose, complete, damaged, export
    from memdash.store.run_directory import find_run

    folder = find_run(args.run).checkpoints
    if args.export:
        chosen, notes = choose(folder, args.checkpoint, ("light", "full"))
        names = export(chosen, args.export)
        print(*notes, f"{args.export}: {', '.join(names)} of {chosen.path.name}", sep="\n")
        return ExitCode.OK
    bad = damaged(folder)
    for checkpoint in complete(folder):
        problem = _problem(checkpoint) if args.verify else ""
        print(_as_json(checkpoint, problem) if args.json else _line(checkpoint, problem, verified=args.verify))
        if problem:
            bad.append((checkpoint.path, problem))
    if not args.json:
        print(*(f"{path.name:<28} DAMAGED: {why}" for path, why in damaged(folder)), sep="\n", end="\n" if bad else "")
    return ExitCode.STORE if bad else ExitCode.OK


def _problem(checkpoint: Checkpoint) -> str:
    from memdash.checkpoints import verify

    try:
        verify(checkpoint.path)
    except CheckpointIncomplete as error:
        return str(error)
    return ""


def _line(checkpoint: Checkpoint, problem: str, *, verified: bool) -> str:
    from memdash.units import format_bytes

    state = f"DAMAGED: {problem}" if problem else "verified" if verified else ""
    size = format_bytes(checkpoint.size_bytes)
    return f"{checkpoint.path.name:<28} {checkpoint.kind:<5} {size:>9}  {checkpoint.reason:<13} {state}".rstrip()


def _as_json(checkpoint: Checkpoint, problem: str) -> str:
    import json

    return json.dumps(
        {
            "path": str(checkpoint.path),
            "step": checkpoint.step,
            "kind": checkpoint.kind,
            "reason": checkpoint.reason,
            "size_bytes": checkpoint.size_bytes,
            "problem": problem,
        }
    )

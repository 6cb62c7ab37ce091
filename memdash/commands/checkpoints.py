"""List a run's checkpoints, verify every byte of them, or export one for `from_pretrained`."""

from __future__ import annotations

import argparse
import json
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
    """Print one line a checkpoint, newest first."""
    from memdash.checkpoints import choose, complete, damaged, export
    from memdash.store.run_directory import find_run

    directory = find_run(args.run)
    folder = directory.checkpoints
    if args.export:
        chosen, notes = choose(folder, args.checkpoint, ("light", "full"))
        names = export(chosen, args.export)
        print(*notes, f"{args.export}: {', '.join(names)} of {chosen.path.name}", sep="\n")
        return ExitCode.OK
    found, incomplete = complete(folder), damaged(folder)
    is_bad = bool(incomplete)
    for checkpoint in found:
        problem = _problem(checkpoint) if args.verify else ""
        is_bad = is_bad or bool(problem)
        print(_as_json(checkpoint, problem) if args.json else _line(checkpoint, problem, verified=args.verify))
    for path, why in incomplete:
        print(json.dumps({"path": str(path), "problem": why}) if args.json else f"{path.name:<28} DAMAGED: {why}")
    if not found and not incomplete and not args.json:
        print(f"{directory.run_id} has no checkpoints")
    return ExitCode.STORE if is_bad else ExitCode.OK


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
    return json.dumps(
        {
            "path": str(checkpoint.path),
            "step": checkpoint.step,
            "kind": checkpoint.kind,
            "attempt": checkpoint.attempt,
            "reason": checkpoint.reason,
            "size_bytes": checkpoint.size_bytes,
            "problem": problem,
        }
    )

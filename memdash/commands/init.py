"""Write a commented starter config."""

from __future__ import annotations

import argparse
from pathlib import Path

from memdash.errors import ExitCode, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("path", nargs="?", type=Path, default=Path("memdash.toml"), help="default: memdash.toml")
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def run(args: argparse.Namespace) -> int:
    """Write it and say what comes next."""
    from memdash.config import starter_config

    if args.path.exists() and not args.force:
        raise UsageError(f"{args.path} exists", hint="name another file, or --force")
    try:
        args.path.write_text(starter_config(), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{args.path} cannot be written: {error}") from None
    print(f"wrote {args.path}.  Next: memdash run {args.path}")
    return ExitCode.OK

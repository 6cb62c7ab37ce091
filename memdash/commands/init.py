"""Write a commented starter config."""

from __future__ import annotations

import argparse
from pathlib import Path

from memdash.errors import ExitCode, UsageError
from memdash.presets import PRESETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "path", nargs="?", type=Path, default=Path("memdash.toml"), help="default: memdash.toml; - prints it"
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="", help="set for a machine with known limits")
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def run(args: argparse.Namespace) -> int:
    """Write it and say what comes next."""
    from memdash.config_text import starter_config

    preset = PRESETS.get(args.preset)
    text = starter_config(preset.keys, preset.about) if preset else starter_config()
    if str(args.path) == "-":
        print(text, end="")
        return ExitCode.OK
    if args.path.exists() and not args.force:
        raise UsageError(f"{args.path} exists", hint="name another file, or --force")
    try:
        args.path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{args.path} cannot be written: {error}") from None
    print(f"wrote {args.path}.  Next: memdash run {args.path}")
    return ExitCode.OK

"""Write a commented starter config, for a machine, an amount of work, and a level of saving memory.

`--preset` sets memory, time and disk for a machine, `--tier` how much is trained, `--level` what is given up to save memory;
any of them go together, and what a tier and a level change is said with the reasons. `--list` shows all there are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from memdash.errors import ExitCode, UsageError
from memdash.presets import LEVELS, PRESETS, TIERS, compose, explain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument(
        "path", nargs="?", type=Path, default=Path("memdash.toml"), help="default: memdash.toml; - prints it"
    )
    parser.add_argument("--preset", choices=sorted(PRESETS), default="", help="set for a machine with known limits")
    parser.add_argument("--tier", choices=list(TIERS), default="", help="how much is trained")
    parser.add_argument("--level", choices=list(LEVELS), default="", help="how much memory is saved")
    parser.add_argument("--list", action="store_true", help="show presets, tiers and levels with their keys")
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def run(args: argparse.Namespace) -> int:
    """Write it and say what comes next."""
    from memdash.config_text import starter_config

    if args.list:
        print("\n".join(_everything()))
        return ExitCode.OK
    values = compose(args.preset, args.tier, args.level)
    reasons = list(explain(values, args.tier, args.level))
    about = [f"Memory, time and disk are set for {PRESETS[args.preset].about}."] if args.preset else []
    text = starter_config(values, [*about, *reasons])
    if str(args.path) == "-":
        print("\n".join(reasons), end="\n" if reasons else "", file=sys.stderr)
        print(text, end="")
        return ExitCode.OK
    if args.path.exists() and not args.force:
        raise UsageError(f"{args.path} exists", hint="name another file, or --force")
    try:
        args.path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{args.path} cannot be written: {error}") from None
    print("\n".join([*reasons, f"wrote {args.path}.  Next: memdash run {args.path}"]))
    return ExitCode.OK


def _everything() -> Iterator[str]:
    for name, preset in PRESETS.items():
        yield f"--preset {name}: {preset.about}"
        yield from (f"    {key} = {value}" for key, value in preset.keys.items())
    for tier in TIERS:
        yield f"--{next(lines := explain(compose(tier=tier), tier=tier))}"
        yield from lines
    for level in LEVELS:
        yield f"--{next(lines := explain(compose(level=level), level=level))}"
        yield from lines

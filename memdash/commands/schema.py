"""Print the JSON Schema of a run config, for editors that complete TOML."""

from __future__ import annotations

import argparse

from memdash.errors import ExitCode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options: none."""


def run(args: argparse.Namespace) -> int:
    """Print it."""
    import json

    from memdash.config_text import config_schema

    print(json.dumps(config_schema(), indent=2))
    return ExitCode.OK

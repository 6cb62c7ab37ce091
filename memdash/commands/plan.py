"""Say before a run what will fit: the peak of each micro-batch, the step that will not fit, the largest that does.

Nothing is trained: the model's step is traced on tensors without memory, and the sampler's real order is looked through.
Exit code 0: the config fits as it is (or, with --apply, was written so that it does); 12: it does not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memdash.errors import ExitCode, MemdashError, UsageError
from memdash.units import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memdash.config import RunConfig

TIMEOUT_S = 600.0  # a model of a billion parameters is initialised in the planning process
CONTEXT_BYTES = 500 * MIB  # CUDA's own share of a card: 300 to 600 MiB, by card and driver
CUDA_GRANULARITY = 512
GPUS = {
    "t4": 14.56,
    "p100": 15.89,
    "v100": 15.77,
    "v100-32": 31.73,
    "l4": 21.9,
    "a10": 21.9,
    "a100-40": 39.38,
    "a100-80": 79.14,
    "h100": 79.10,
}
"""GiB that torch finds on each: less than its name says, for the driver and error correction keep some."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("config", type=Path, help="a TOML run config")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override one key, as for run"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--capacity", metavar="SIZE", help="what there is for tensors, such as 15GB")
    where.add_argument("--gpu", choices=GPUS, help="a card's memory less CUDA's own share; default: this machine")
    parser.add_argument("--json", action="store_true", help="everything as one JSON object")
    parser.add_argument(
        "--apply", type=Path, metavar="FILE", help="write the config with the largest micro-batch that fits"
    )


def run(args: argparse.Namespace) -> int:
    """Check, plan in a process of its own, print, perhaps write."""
    from memdash.commands._plan_page import page
    from memdash.commands.run import check_torch
    from memdash.config_file import load_config

    config = load_config(args.config, args.overrides)
    check_torch()
    if args.apply:
        _check_target(args)
    source, options = _room(args, config)
    plan = _plan(config, args.config.parent.resolve(), options)
    plan["room"]["source"] = source or plan["room"]["source"]
    plan["config"] = str(args.config)
    if args.json:
        print(json.dumps(plan, indent=2))
    else:
        print("\n".join(page(plan, simulated=config.device.kind == "simulated" and not args.gpu)))
    if args.apply and plan["largest"] is not None:
        _write(args.config, args.apply, plan["largest"])
        print(f"{args.apply}: micro_batch = {plan['largest']}", file=sys.stderr)
        return ExitCode.OK
    return ExitCode.OK if _fits(plan) else ExitCode.OUT_OF_MEMORY


def _fits(plan: dict[str, Any]) -> bool:
    (row,) = (row for row in plan["rows"] if row["micro_batch"] == plan["configured"])
    return bool(row["verdict"] != "oom")


def _room(args: argparse.Namespace, config: RunConfig) -> tuple[str, list[str]]:
    """Where the capacity comes from, as shown, and what the planning process is told of it. Raises UsageError."""
    from memdash.units import parse_bytes

    cuda = ["--framework", str(CONTEXT_BYTES), "--granularity", str(CUDA_GRANULARITY)]
    if args.gpu:
        return f"--gpu {args.gpu}", ["--capacity", str(round(GPUS[args.gpu] * GIB)), *cuda]
    if args.capacity:
        try:
            return f"--capacity {args.capacity}", ["--capacity", str(parse_bytes(args.capacity))]
        except ValueError as error:
            raise UsageError(f"--capacity: {error}") from None
    if config.device.capacity and config.device.kind != "cpu":
        return "device.capacity", ["--capacity", str(parse_bytes(config.device.capacity))]
    free_bytes, ceiling = _host()
    return "", [*cuda, "--host", str(free_bytes), "--host-name", ceiling]


def _host() -> tuple[int, str]:
    """What is free of this machine's memory now, under the ceiling that will be hit first, and that ceiling's name."""
    from memdash.host.ceilings import binding, find_ceilings
    from memdash.host.process_tree import ProcessTree

    tree = ProcessTree(os.getpid(), reset_peaks=False)
    tree.refresh()
    reading = tree.read()
    tree.close()
    first = binding(find_ceilings(), reading)
    return max(1, first.limit_bytes - first.fill(reading).used_bytes), first.source


def _plan(config: RunConfig, base: Path, options: Sequence[str]) -> dict[str, Any]:
    """What the planning process says. Raises MemdashError, UsageError."""
    from memdash.commands._going_on import as_json

    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEMDASH_")}
    with tempfile.TemporaryDirectory(prefix="memdash-plan-") as folder:
        Path(folder, "config.json").write_bytes(as_json(config))
        command = [
            sys.executable,
            "-P",
            "-m",
            "runner.planning",
            "--run-dir",
            folder,
            "--base-dir",
            str(base),
            *options,
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False
            )
        except subprocess.TimeoutExpired:
            raise MemdashError(f"the plan was not made within {TIMEOUT_S:.0f} s") from None
    if done.returncode == 0:
        plan: dict[str, Any] = json.loads(done.stdout)
        return plan
    lines = done.stderr.strip().splitlines() or [f"it ended with exit code {done.returncode}"]
    if lines[-1].startswith("memdash: "):
        kind = UsageError if done.returncode == ExitCode.USAGE else MemdashError
        raise kind(lines[-1].removeprefix("memdash: "))
    sys.stderr.write(done.stderr)  # the task's own error, with its traceback
    raise MemdashError(f"the task cannot be planned: {lines[-1]}")


def _check_target(args: argparse.Namespace) -> None:
    """Raises UsageError where the config could not be written so that it means the same."""
    if args.overrides:
        raise UsageError("--apply writes the file's own keys: leave --set out, or write its keys into the file")
    if args.apply.parent.resolve() != args.config.parent.resolve():
        raise UsageError(
            f"--apply {args.apply}: relative paths in it start from {args.config.parent.resolve()}: write it there"
        )
    if args.apply.exists() and not args.apply.samefile(args.config):
        raise UsageError(f"--apply {args.apply}: exists already")


def _write(source: Path, target: Path, micro_batch: int) -> None:
    """The same file with another `train.micro_batch`, all or nothing."""
    import tomllib

    from memdash.commands._plan_page import with_micro_batch

    text = with_micro_batch(source.read_text(encoding="utf-8"), micro_batch)
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        hint = f"set train.micro_batch = {micro_batch} by hand"
        raise UsageError(f"{source}: `train` is written in a way that is not edited here", hint=hint) from None
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, target)

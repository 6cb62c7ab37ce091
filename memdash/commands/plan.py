"""Say before a run what will fit: the peak of each micro-batch, the step that will not fit, the largest that does.

Nothing is trained: the model's step is traced on tensors without memory, and the sampler's real order is looked through.
Exit code 0: the config fits as it is (or, with --apply, was written so that it does); 12: it does not.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from memdash.commands._planning import GPUS, ONLY_OURS, NotPlanned, ask, configured, probe, target
from memdash.errors import ExitCode, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("config", type=Path, help="a TOML run config")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="override one key, as for run"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--capacity", metavar="SIZE", help="what there is for tensors, such as 15GB")
    where.add_argument(
        "--gpu",
        type=str.lower,
        choices=GPUS,
        help="a card's memory less CUDA's own share; another card: --capacity 24GB; default: this machine",
    )
    parser.add_argument(
        "--variants", action="store_true", help="also what other precisions, optimizers and the like would buy"
    )
    parser.add_argument(
        "--probe",
        action="store_true",
        help="also do two real steps here: what they need, and the time of the whole run",
    )
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
    if config.run.command:
        raise UsageError(f"{args.config}: {ONLY_OURS}", hint=f"memdash run {args.config} watches it all the same")
    check_torch()
    if args.apply:
        _check_target(args)
    source, options = target(config, gpu=args.gpu or "", capacity=args.capacity or "")
    base = args.config.parent.resolve()
    try:
        plan = ask(config, base, [*options, "--variants", "yes" if args.variants else "auto"])
    except NotPlanned as error:
        sys.stderr.write(error.traceback)
        raise
    plan["room"]["source"] = source or plan["room"]["source"]
    plan["config"] = str(args.config)
    if args.probe:
        plan["probe"] = probe(plan, config, base, elsewhere=bool(args.gpu) or "--gpu" in options)
    if args.json:
        print(json.dumps(plan, indent=2))
    else:
        print("\n".join(page(plan, simulated=config.device.kind == "simulated" and not args.gpu)))
    if args.apply and plan["largest"] is not None:
        _write(args.config, args.apply, plan["largest"])
        print(f"{args.apply}: micro_batch = {plan['largest']}", file=sys.stderr)
        return ExitCode.OK
    return ExitCode.OUT_OF_MEMORY if configured(plan)["verdict"] == "oom" else ExitCode.OK


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

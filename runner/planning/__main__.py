"""`python -P -m runner.planning --run-dir DIR --base-dir DIR`: what would fit, as JSON on standard output; trains nothing.

`--run-dir` holds the config.json to plan for. With mistakes that are not bugs, one line on standard error and an exit code:
see memdash.errors.ExitCode.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memdash.errors import MemdashError, UsageError

if TYPE_CHECKING:
    from runner.planning.plan import Room


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m runner.planning", description="Say what would fit.")
    parser.add_argument("--run-dir", type=Path, required=True, help="holds config.json")
    parser.add_argument("--base-dir", type=Path, required=True, help="what relative paths in the config start from")
    parser.add_argument("--capacity", type=int, default=0, help="bytes; 0 = those of the config's device here")
    parser.add_argument("--framework", type=int, default=0, help="bytes of a GPU that CUDA itself takes")
    parser.add_argument("--granularity", type=int, default=1, help="bytes that a GPU's tensors are rounded up to")
    parser.add_argument("--host", type=int, default=0, help="bytes of host memory that are free, for a run on the CPU")
    parser.add_argument("--host-name", default="", help="what limits them")
    options = parser.parse_args(arguments)
    os.environ.pop("MEMDASH_SOCKET", None)  # nothing is trained, so nobody is told
    try:
        with contextlib.redirect_stdout(sys.stderr):  # a task of one's own may print
            plan = _plan(options)
    except MemdashError as error:
        sys.stderr.write(f"memdash: {error}" + (f" ({error.hint})" if error.hint else "") + "\n")
        return error.exit_code
    sys.stdout.write(json.dumps(plan))
    return 0


def _plan(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    from runner.adapt import adapt
    from runner.planning.plan import Planner
    from runner.randomness import seed_everything
    from runner.spec import read_spec
    from runner.tasks.opening import open_task

    spec = read_spec(options.run_dir, options.base_dir)
    torch.set_num_threads(1)
    seed_everything(spec.config.run.seed)
    task = open_task(spec)
    if not task.train_lengths:
        raise UsageError(f"task.name = {spec.config.task.name!r}: there are no examples to train on")
    room = _room(options, spec.config.device.kind)
    gc.freeze()  # each trace collects garbage: what is there by now is none
    model = task.build_model()
    adapt(model, spec.config)
    model.train()
    return Planner(task, model, spec.config, room).plan()


def _room(options: argparse.Namespace, kind: str) -> Room:
    """What there is to fit into: what was given, else this machine's. Raises UsageError."""
    import torch

    from runner.device import resident_bytes
    from runner.planning.plan import Room

    if options.capacity:
        return Room(options.capacity, options.framework, options.granularity)
    if kind != "cpu" and torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        return Room(total, options.framework, options.granularity, torch.cuda.get_device_name(0))
    if kind == "cuda":
        hint = "say for which with --gpu or --capacity"
        raise UsageError('device.kind = "cuda": torch finds no CUDA device here', hint=hint)
    mine = resident_bytes()  # Python, torch and the data: what the training process will have, too
    return Room(options.host + mine if options.host else None, mine, source=options.host_name)


if __name__ == "__main__":
    sys.exit(main())

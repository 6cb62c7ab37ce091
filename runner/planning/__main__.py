"""`python -P -m runner.planning --run-dir DIR --base-dir DIR`: what would fit, as JSON on standard output; trains nothing.

`--run-dir` holds the config.json to plan for. With mistakes that are not bugs, one line on standard error and an exit code:
see memdash.errors.ExitCode.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memdash.errors import MemdashError, UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m runner.planning", description="Say what would fit.")
    parser.add_argument("--run-dir", type=Path, required=True, help="holds config.json")
    parser.add_argument("--base-dir", type=Path, required=True, help="what relative paths in the config start from")
    parser.add_argument("--capacity", type=int, default=0, help="bytes; 0 = the CUDA device's own, else unknown")
    parser.add_argument("--framework", type=int, default=0, help="bytes of it that are taken before the first tensor")
    parser.add_argument("--host", action="store_true", help="it is host memory: the framework's share is measured")
    parser.add_argument("--granularity", type=int, default=1, help="bytes that tensors are rounded up to")
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

    from runner.device import resident_bytes
    from runner.planning.plan import Planner, Room
    from runner.randomness import seed_everything
    from runner.spec import read_spec
    from runner.tasks.opening import open_task

    spec = read_spec(options.run_dir, options.base_dir)
    torch.set_num_threads(1)
    seed_everything(spec.config.run.seed)
    task = open_task(spec)
    if not task.train_lengths:
        raise UsageError(f"task.name = {spec.config.task.name!r}: there are no examples to train on")
    capacity = options.capacity or (_cuda_bytes() if not options.host else None)
    framework = resident_bytes() if options.host else options.framework
    seed_everything(spec.config.run.seed)
    model = task.build_model()
    model.train()
    room = Room(capacity or None, framework, options.granularity)
    return Planner(task, model, spec.config, room).plan()


def _cuda_bytes() -> int | None:
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


if __name__ == "__main__":
    sys.exit(main())

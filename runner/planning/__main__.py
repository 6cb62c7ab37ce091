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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memdash.config import BUILT_IN_TASKS
from memdash.errors import MemdashError, UsageError

if TYPE_CHECKING:
    from runner.planning.plan import HostFacts
    from runner.planning.room import Holder, Room

CUDA_GRANULARITY = 512


def main(arguments: Sequence[str] | None = None) -> int:
    """Plan; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m runner.planning", description="Say what would fit.")
    parser.add_argument("--run-dir", type=Path, required=True, help="holds config.json")
    parser.add_argument("--base-dir", type=Path, required=True, help="what relative paths in the config start from")
    parser.add_argument("--capacity", type=int, default=0, help="bytes; 0 = those of the config's device here")
    parser.add_argument("--gpu", action="store_true", help="it is a GPU's, whichever device this machine has")
    parser.add_argument("--framework", type=int, default=0, help="bytes of a GPU that CUDA itself takes")
    parser.add_argument("--half", default="bf16", help="the half precision that suits the device")
    parser.add_argument("--host", type=int, default=0, help="bytes of host memory that the training process may take")
    parser.add_argument("--host-name", default="", help="what limits them")
    parser.add_argument("--variants", choices=("no", "auto", "yes"), default="auto", help="trace other configs, too")
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
    """What is imported before the first reading is what the training process imports, and no more."""
    import torch

    import runner.launch
    from runner.device import resident_bytes
    from runner.planning.no_values import NoValues
    from runner.randomness import seed_everything
    from runner.spec import read_spec
    from runner.tasks.opening import open_task
    from runner.tasks.selection import Selection

    spec = replace(read_spec(options.run_dir, options.base_dir), only_looks=True)
    if spec.config.task.name in BUILT_IN_TASKS:
        import runner.tasks.pretrained  # noqa: F401
    _step_once()
    imports_bytes = resident_bytes()
    torch.set_num_threads(1)
    seed_everything(spec.config.run.seed)
    task = open_task(spec)
    if not task.train_lengths:
        raise UsageError(f"task.name = {spec.config.task.name!r}: there are no examples to train on")
    data_bytes = max(0, resident_bytes() - imports_bytes)
    with NoValues():
        model = task.build_model()
    weights_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    imports_bytes = max(imports_bytes, resident_bytes() - data_bytes - weights_bytes)  # the model's own code
    from runner.planning.plan import HostFacts, Planner, Question

    returns = "MALLOC_MMAP_THRESHOLD_" in os.environ or getattr(spec.config.memory, "malloc", "default") == "return"
    whole: Any = task.task if isinstance(task, Selection) else task
    data_bytes += getattr(whole, "loaded_bytes", 0)  # of what is not loaded here
    host = HostFacts(imports_bytes, data_bytes, returns, options.host, options.host_name)
    room = _room(options, spec.config.device.kind, host)
    gc.freeze()  # each trace collects garbage: what is there by now is none
    wanted = {"no": False, "auto": None, "yes": True}[options.variants]
    return Planner(task, model, spec.config, room, Question(options.half, wanted, host)).plan()


def _step_once() -> None:
    """One small layer is trained for one step: torch imports a good part of itself only then."""
    import torch
    from torch import nn

    layer = nn.Linear(64, 64)
    layer(torch.zeros(64, 64)).sum().backward()
    torch.optim.AdamW(layer.parameters(), fused=True).step()


def _room(options: argparse.Namespace, kind: str, host: HostFacts) -> Room:
    """What there is to fit into: what was given, else this machine's. Raises UsageError."""
    import torch

    from runner.planning.room import Room

    is_cuda = options.gpu or (kind in ("auto", "cuda") and torch.cuda.is_available())
    holder: Holder = "cuda" if is_cuda else "tensors"
    granularity = CUDA_GRANULARITY if is_cuda else 1
    if options.capacity:
        return Room(options.capacity, options.framework if is_cuda else 0, granularity, holder=holder)
    if is_cuda:
        total = torch.cuda.get_device_properties(0).total_memory
        return Room(total, options.framework, granularity, torch.cuda.get_device_name(0), holder)
    if kind == "cuda":
        hint = "say for which with --gpu or --capacity"
        raise UsageError('device.kind = "cuda": torch finds no CUDA device here', hint=hint)
    mine = host.imports_bytes + host.data_bytes  # what the training process will have, too
    holder = "returned" if host.returns else "malloc"
    return Room(options.host or None, mine, source=options.host_name, holder=holder)


if __name__ == "__main__":
    sys.exit(main())

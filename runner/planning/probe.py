"""`python -P -m runner.planning.probe ...`: two real optimizer steps, measured, as JSON on standard output.

The second one is the worst: the optimizer has its state, and the allocators what the first has left. On a CUDA device the
step is the run's own; elsewhere the simulated device counts the tensors, whatever the config's device is, and never more
than `--capacity`. Nothing is saved, and nobody is told.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memdash.errors import ExitCode, MemdashError, UsageError

if TYPE_CHECKING:
    from memdash.config import RunConfig
    from runner.tasks.protocol import Task
    from runner.training_state import TrainingState

STEPS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Step; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m runner.planning.probe", description="Measure two real steps.")
    parser.add_argument("--run-dir", type=Path, required=True, help="holds config.json")
    parser.add_argument("--base-dir", type=Path, required=True, help="what relative paths in the config start from")
    parser.add_argument("--micro-batch", type=int, required=True)
    parser.add_argument("--capacity", type=int, required=True, help="bytes that the tensors may take")
    options = parser.parse_args(arguments)
    os.environ.pop("MEMDASH_SOCKET", None)
    try:
        found = probe(options.run_dir, options.base_dir, options.micro_batch, options.capacity)
    except MemdashError as error:
        sys.stderr.write(f"memdash: {error}" + (f" ({error.hint})" if error.hint else "") + "\n")
        return error.exit_code
    sys.stdout.write(json.dumps(found) + "\n")
    return ExitCode.OK


def probe(run_dir: Path, base_dir: Path, micro_batch: int, capacity_bytes: int) -> dict[str, Any]:
    """Peaks and times of the run's first steps. Raises MemdashError when they need more than there is."""
    import torch

    from memdash.agent.session import Session
    from memdash.batching import BatchSplit
    from runner.groups import Groups
    from runner.oom import OutOfMemoryStop
    from runner.randomness import seed_everything
    from runner.slicing import Slicing
    from runner.spec import read_spec
    from runner.step import GroupStep
    from runner.tasks.opening import open_task

    spec = read_spec(run_dir, base_dir)
    config = spec.config
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    seed_everything(config.run.seed)
    task = open_task(spec)
    if not task.train_lengths:
        raise UsageError(f"task.name = {config.task.name!r}: there are no examples to train on")
    state = _state(task, config, capacity_bytes)
    slicing, group = Slicing.of(task, config.data), config.train.global_batch
    bucket_lengths = slicing.told_lengths() if config.data.padding == "bucket" else None
    groups = Groups(len(task.train_lengths), group, config.run.seed, bucket_lengths)
    is_cuda = state.device.torch_type == "cuda"
    step = GroupStep(state, task, BatchSplit(group, micro_batch), Session(state.device.read_memory), slicing=slicing)
    times, peaks = [], []
    for number in range(min(STEPS, -(-groups.num_examples // group))):
        state.device.read_memory()
        began_s = time.monotonic()
        try:
            step.train(groups.at(0, number * group), 0, 0.0, config.train.max_grad_norm)
        except OutOfMemoryStop as stop:
            raise MemdashError(f"the probe ran out of memory: {stop}") from None
        times.append(time.monotonic() - began_s)
        memory = state.device.read_memory()
        peaks.append((memory.peak_reserved_bytes if is_cuda else memory.peak_allocated_bytes) or 0)
    return {
        "device": state.device.name if is_cuda else "cpu",
        "micro_batch": micro_batch,
        "steps": len(times),
        "step_s": times[-1],
        "peak_bytes": max(peaks),
        "resident_bytes": peak_resident_bytes(),
        "was_cut": step.was_cut,
    }


def _state(task: Task, config: RunConfig, capacity_bytes: int) -> TrainingState:
    """The model with its optimizer, on the device that is measured."""
    import torch

    from memdash.config import DeviceSection
    from runner.adapt import adapt
    from runner.device import Device, open_device
    from runner.optimizer import make_optimizer
    from runner.precision import Precision
    from runner.simulated import SimulatedDevice
    from runner.training_state import Progress, TrainingState

    is_cuda = config.device.kind in ("auto", "cuda") and torch.cuda.is_available()
    device: Device = open_device(DeviceSection(kind="cuda")) if is_cuda else SimulatedDevice(capacity_bytes)
    model = task.build_model()
    adapt(model, config)
    model.train()
    device.start()
    device.place(model)
    optimizer = make_optimizer(model, config.train)
    return TrainingState(model, optimizer, Progress(), device, Precision(config.train.precision, device))


def peak_resident_bytes() -> int:
    """Of this program alone; `ru_maxrss`, which may be that of whoever started it, where there is no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


if __name__ == "__main__":
    sys.exit(main())

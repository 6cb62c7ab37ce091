"""Saves a model of some size in every way and prints, as JSON, what that took of host and device memory at its peak.

`python -m tests.programs.saves_big_model FOLDER cpu|simulated`
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import torch
from torch import nn

from memdash.config import DeviceSection, TrainSection
from runner.checkpoint import CheckpointStore
from runner.device import open_device
from runner.optimizer import make_optimizer
from runner.randomness import RngState
from runner.training_state import Progress, TrainingState

LAYERS, WIDTH = 12, 1448  # 12 tensors of 8 MiB
WAYS = {"light": ("light", None), "light bf16": ("light", torch.bfloat16), "full": ("full", None)}


def main() -> None:
    """One line a way of saving."""
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    device = open_device(DeviceSection(kind=kind, capacity="2GiB" if kind == "simulated" else ""))
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS)))
    device.start()
    device.place(model)
    state = TrainingState(model, make_optimizer(model, TrainSection()), Progress(), device)
    for tensor in state._optimizer_tensors().values():
        tensor.fill_(1.0)  # zeros that nobody wrote to take no memory yet, and would when they are read
    store = CheckpointStore(folder, 2)
    save_a_little(folder / "warm")
    found = {}
    for name, (what, cast) in WAYS.items():
        with device.host():
            rng = RngState.capture()
        device.read_memory()  # restarts the peak
        before = device.read_memory().allocated_bytes or 0
        Path("/proc/self/clear_refs").write_text("5")  # so does this, of the resident set
        resident = of_status("VmRSS")
        saved = store.save(  # type: ignore[arg-type]
            what, 1, "command", 0, lambda staging, w=what, c=cast, r=rng: state.write(staging, w, r, {}, c)
        )
        host_bytes = of_status("VmHWM") - resident
        device_bytes = (device.read_memory().peak_allocated_bytes or 0) - before
        found[name] = {"host_bytes": host_bytes, "device_bytes": device_bytes, "size_bytes": saved.size_bytes}
    print(json.dumps({"model_bytes": state.need_bytes("light"), "ways": found}))


def save_a_little(folder: Path) -> None:
    """Load the code of every way once: how many MiB of torch's kernels that maps depends on the machine, not on us."""
    device = open_device(DeviceSection(kind="cpu"))
    model = nn.Linear(256, 256)
    state = TrainingState(model, make_optimizer(model, TrainSection()), Progress(), device)
    store, rng = CheckpointStore(folder, 2), RngState.capture()
    for what, cast in WAYS.values():
        store.save(what, 1, "command", 0, lambda staging, w=what, c=cast: state.write(staging, w, rng, {}, c))  # type: ignore[arg-type]


def of_status(field: str) -> int:
    """Bytes, from the kernel."""
    match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match
    return int(match[1]) * 1024


if __name__ == "__main__":
    main()

"""The same BERT steps on a CUDA device and on the simulated one, their figures side by side: `pytest -m gpu -s`."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from memdash.config import TrainSection
from memdash.units import format_bytes
from memdash.wire import DeviceMemory
from runner.device import CudaDevice, Device
from runner.optimizer import make_optimizer
from runner.randomness import seed_everything
from runner.simulated import SimulatedDevice
from tests.runner.test_fidelity import bert

FIGURES = ("allocated", "reserved", "inactive_split", "peak_allocated", "peak_reserved")
LENGTHS = (64, 128, 256, 128)


def steps(device: Device) -> list[DeviceMemory]:
    """A reading after each step."""
    seed_everything(0)
    with device.host():
        model = bert("eager")
        batches = [torch.randint(5, 1000, (16, length)) for length in LENGTHS]
    device.place(model)
    optimizer = make_optimizer(model, TrainSection())
    device.read_memory()
    readings = []
    for tokens in batches:
        batch = device.put({"tokens": tokens})["tokens"]
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        del batch
        readings.append(device.read_memory())
    return readings


def simulated(capacity_bytes: int) -> list[DeviceMemory]:
    """The same on the simulated device."""
    device = SimulatedDevice(capacity_bytes)
    note = device.start()
    assert not note, note
    try:
        return steps(device)
    finally:
        device.stop()


def test_simulated_figures_are_near_the_real_ones(cuda: Callable[..., CudaDevice]) -> None:
    device = cuda()
    real = steps(device)
    gc.collect()
    rehearsed = simulated(device.capacity_bytes or 0)
    print(f"\n{'step':>4}  {'figure':<16} {'cuda':>12} {'simulated':>12}  difference")
    for number, (ours, theirs) in enumerate(zip(rehearsed, real, strict=True), 1):
        for figure in FIGURES:
            simulated_bytes, real_bytes = getattr(ours, f"{figure}_bytes"), getattr(theirs, f"{figure}_bytes")
            share = f"{(simulated_bytes - real_bytes) / real_bytes:+.2%}" if real_bytes else "-"
            print(
                f"{number:>4}  {figure:<16} {format_bytes(real_bytes):>12} {format_bytes(simulated_bytes):>12}  {share}"
            )
        # CUDA rounds every tensor up to 512 bytes, and its kernels have workspaces of their own.
        assert abs((ours.allocated_bytes or 0) - (theirs.allocated_bytes or 0)) < 0.1 * (theirs.allocated_bytes or 1)
        assert abs((ours.peak_allocated_bytes or 0) - (theirs.peak_allocated_bytes or 0)) < 0.25 * (
            theirs.peak_allocated_bytes or 1
        )

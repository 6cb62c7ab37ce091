"""The CUDA device beside torch's own figures: readings, caps, OOMs, snapshots, pauses that give it away."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memdash.units import MIB
from runner.device import CudaDevice
from runner.oom import OutOfMemory, attempt, note_memory
from runner.release import Release
from runner.snapshots import Snapshots
from tests.runner.conftest import Trainer
from tests.runner.toy_task import ToyTask

Start = Callable[..., CudaDevice]


def block(mib: int) -> torch.Tensor:
    return torch.empty(mib * MIB, dtype=torch.uint8, device="cuda:0")


def test_figures_are_torchs_own_and_peaks_are_those_since_the_last_reading(cuda: Start) -> None:
    device = cuda()
    held, spike = block(48), block(80)
    del spike
    peaks = torch.cuda.max_memory_allocated(0), torch.cuda.max_memory_reserved(0)
    memory = device.read_memory()
    assert (memory.device, memory.kind) == ("cuda:0", "exact")
    assert memory.allocated_bytes == torch.cuda.memory_allocated(0) >= 48 * MIB
    assert memory.reserved_bytes == torch.cuda.memory_reserved(0) >= 128 * MIB
    assert (memory.peak_allocated_bytes, memory.peak_reserved_bytes) == peaks
    assert memory.total_bytes == torch.cuda.get_device_properties(0).total_memory
    assert 0 < (memory.free_bytes or 0) < memory.total_bytes - (memory.reserved_bytes or 0)
    assert memory.capacity_bytes is not None
    assert memory.allocated_bytes < memory.capacity_bytes <= memory.total_bytes
    again = device.read_memory()
    assert again.peak_allocated_bytes == again.allocated_bytes == memory.allocated_bytes
    assert device.empty_cache() >= 80 * MIB
    assert device.read_memory().reserved_bytes == torch.cuda.memory_reserved(0)
    del held


def test_a_cap_is_the_capacity_and_holds(cuda: Start) -> None:
    device = cuda(512 * MIB)
    assert device.capacity_bytes == 512 * MIB
    capacity = device.read_memory().capacity_bytes or 0
    assert abs(capacity - 512 * MIB) < MIB  # torch keeps the cap as a fraction
    held = block(300)
    with pytest.raises(torch.OutOfMemoryError):
        block(300)
    del held
    assert block(300).numel() == 300 * MIB


def test_an_oom_is_noted_at_its_very_moment(cuda: Start) -> None:
    device = cuda(512 * MIB)

    def too_much() -> None:
        frames = [block(200), block(100)]
        block(400)
        frames.clear()

    before = device.read_memory().allocated_bytes or 0
    failure = attempt(too_much)
    assert isinstance(failure, OutOfMemory)
    assert torch.cuda.memory_allocated(0) == before  # the failed frames are gone, and their memory with them
    noted = note_memory(failure, device)
    assert noted.memory is not None
    assert (noted.memory.allocated_bytes or 0) - before >= 300 * MIB
    assert (noted.requested_bytes or 0) >= 400 * MIB
    assert noted.memory.num_ooms == torch.cuda.memory_stats(0)["num_ooms"]
    assert device.at_oom() is None


class Hungry(ToyTask):
    """Each example needs 32 MiB in its forward."""

    def loss_sum(self, model: Any, batch: Any) -> Any:
        tokens = batch["tokens"]
        scratch = torch.empty(len(tokens) * 32 * MIB, dtype=torch.uint8, device=tokens.device)
        loss = super().loss_sum(model, batch)
        del scratch
        return loss


def test_a_step_that_does_not_fit_is_recovered_and_told_with_its_figures(cuda: Start) -> None:
    trainer = Trainer(Hungry(count=32), group=16, micro_batch=16, device=cuda(384 * MIB))
    trainer.train(range(16))
    assert trainer.step.split.micro_batch == 8
    (oom,) = trainer.session.ooms
    assert oom["requested_bytes"] == 512 * MIB
    assert (oom["memory"].kind, oom["memory"].device) == ("exact", "cuda:0")
    assert 0 < oom["memory"].allocated_bytes < 128 * MIB
    assert trainer.device.read_memory().num_ooms >= 1


def test_a_snapshot_is_torchs_own_file_and_names_who_allocated(cuda: Start, tmp_path: Path) -> None:
    device = cuda(record_history=True)
    held = block(64)
    text = Snapshots(tmp_path, device, has_history=True).dump(3)
    assert text.startswith(str(tmp_path / "step-3.pickle"))
    snapshot = pickle.loads((tmp_path / "step-3.pickle").read_bytes())
    assert sum(segment["allocated_size"] for segment in snapshot["segments"]) == torch.cuda.memory_allocated(0)
    frames = [frame for event in snapshot["device_traces"][0] for frame in event.get("frames", ())]
    assert any(Path(frame["filename"]).name == Path(__file__).name and frame["name"] == "block" for frame in frames)
    del held


def test_a_released_device_is_empty_and_taken_back_it_is_what_it_was(cuda: Start) -> None:
    device = cuda()
    trainer = Trainer(ToyTask(width=1024, batch_norm=True, dtype="float32"), 8, 4, device)
    trainer.train(range(8))
    before = {name: tensor.cpu() for name, tensor in trainer.everything().items()}
    held = device.read_memory().allocated_bytes or 0
    release = Release(trainer.state, lambda: 1 << 40)
    assert "cuda:0" in release.release()
    away = device.read_memory()
    assert (away.allocated_bytes or 0) < held / 10
    assert not any(parameter.is_cuda for parameter in trainer.state.model.parameters())
    release.restore()
    after = trainer.everything()
    assert all(torch.equal(after[name].cpu(), tensor) for name, tensor in before.items())
    trainer.train(range(8, 16))

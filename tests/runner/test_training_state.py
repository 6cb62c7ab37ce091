"""What is inside a checkpoint comes back, bit for bit, with no second copy of the model on the way."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from memdash.errors import UsageError
from memdash.units import MIB
from memdash.wire import CheckpointKind
from runner.checkpoint import CheckpointStore
from runner.randomness import RngState
from runner.simulated import NativeLimiter, SimulatedDevice
from runner.tensorfile import size_bytes, write_tensors
from runner.training_state import Progress
from tests.runner.conftest import Trainer, assert_bitwise
from tests.runner.toy_task import ToyTask

Native = Callable[[int], tuple[SimulatedDevice, NativeLimiter]]


def save(trainer: Trainer, folder: Path, kind: CheckpointKind) -> Path:
    state = trainer.state
    store = CheckpointStore(folder, 2)
    with state.device.host():
        rng = RngState.capture()
    need_bytes = state.need_bytes(kind)
    return store.save(kind, state.progress.step, "command", need_bytes, lambda s: state.write(s, kind, rng, {})).path


def test_a_full_checkpoint_brings_everything_back(tmp_path: Path) -> None:
    trainer, other = (Trainer(ToyTask(dropout=0.2, batch_norm=True), 8, 4) for _ in range(2))
    trainer.train(range(8))
    trainer.state.progress = Progress(step=1, epoch=0, position=8, examples_seen=8)
    path = save(trainer, tmp_path, "full")
    expected = trainer.everything()
    trainer.train(range(8, 16))
    ahead = trainer.everything()
    other.state.load_all(path)
    assert_bitwise(other.everything(), expected)
    assert other.state.progress == Progress(step=1, epoch=0, position=8, examples_seen=8)
    other.train(range(8, 16))
    assert_bitwise(other.everything(), ahead)


def test_generators_of_python_and_numpy_come_back(tmp_path: Path) -> None:
    trainer = Trainer(ToyTask(), 8, 4)
    random.random(), random.gauss(0, 1), np.random.standard_normal()
    path = save(trainer, tmp_path, "full")
    expected = [random.random(), random.gauss(0, 1), np.random.standard_normal(), np.random.random()]
    trainer.state.load_all(path)
    assert [random.random(), random.gauss(0, 1), np.random.standard_normal(), np.random.random()] == expected


def test_a_light_checkpoint_holds_weights_once(tmp_path: Path) -> None:
    trainer = Trainer(ToyTask(), 8, 4)
    path = save(trainer, tmp_path, "light")
    tensors = load_file(path / "model.safetensors")
    assert set(tensors) == {"embed.weight", "mix.weight", "mix.bias", "head.bias"}  # head.weight is the embedding's
    assert torch.equal(tensors["embed.weight"], trainer.state.model.state_dict()["head.weight"])
    other = Trainer(ToyTask(), 8, 4)
    other.train(range(8))
    other.state.load_weights(path)
    left, right = other.state.model.state_dict(), trainer.state.model.state_dict()
    assert_bitwise(dict(left), dict(right))


def test_another_model_is_refused_in_words(tmp_path: Path) -> None:
    path = save(Trainer(ToyTask(width=8), 8, 4), tmp_path, "full")
    with pytest.raises(UsageError, match=r"another model: embed.weight is \(7, 8\) there, \(7, 16\) here"):
        Trainer(ToyTask(width=16), 8, 4).state.load_all(path)
    with pytest.raises(UsageError, match="another model: 5 tensors differ"):
        Trainer(ToyTask(batch_norm=True), 8, 4).state.load_weights(path)


@pytest.mark.parametrize("kind", ["light", "full"])
def test_saving_takes_no_device_memory(native: Native, tmp_path: Path, kind: CheckpointKind) -> None:
    device, limiter = native(1 << 30)
    trainer = Trainer(ToyTask(width=256), 8, 4, device)
    trainer.train(range(8))
    memory = device.read_memory()
    limiter.start((memory.allocated_bytes or 0) + 100)  # room for nothing
    save(trainer, tmp_path, kind)
    peak = device.read_memory().peak_allocated_bytes
    limiter.start(1 << 30)
    assert peak == memory.allocated_bytes
    assert size_bytes(trainer.state.model.state_dict()) > MIB // 2


def test_any_tensor_is_written_as_safetensors_would(tmp_path: Path) -> None:
    tensors: dict[str, Any] = {
        "float": torch.randn(3, 5),
        "transposed": torch.randn(4, 6).t(),
        "half": torch.randn(7).half(),
        "brain": torch.randn(2, 2).bfloat16(),
        "flag": torch.tensor([True, False, True]),
        "number": torch.tensor(3),
        "nothing": torch.empty(0, 4),
        "double": torch.randn(3).double(),
        "slice": torch.arange(10)[3:7],
    }
    with open(tmp_path / "ours.safetensors", "wb") as file:
        write_tensors(file.write, tensors, contextlib.nullcontext)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "theirs.safetensors")
    assert_bitwise(load_file(tmp_path / "ours.safetensors"), load_file(tmp_path / "theirs.safetensors"))


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    layer = nn.Linear(4, 4)
    with open(tmp_path / "tied.safetensors", "wb") as file:
        write_tensors(file.write, {"a": layer.weight, "b": layer.weight}, contextlib.nullcontext)
    assert list(load_file(tmp_path / "tied.safetensors")) == ["a"]

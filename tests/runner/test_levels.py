"""Each level of saving memory needs measurably less than the one before it, on the simulated device, as `init` writes it."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest

from memdash.agent.session import Session
from memdash.batching import BatchSplit
from memdash.config_file import load_config
from memdash.config_text import starter_config
from memdash.presets import LEVELS, compose
from runner.adapt import adapt
from runner.optimizer import make_optimizer
from runner.precision import Precision
from runner.randomness import seed_everything
from runner.simulated import SimulatedDevice
from runner.spec import Spec
from runner.step import GroupStep
from runner.tasks.opening import open_task
from runner.training_state import Progress, TrainingState

TINY = (
    "data.source=text.txt",
    "data.max_examples=32",
    "data.subset_ratio=1",
    "data.vocab_size=300",
    "data.validation_fraction=0",
)


def peak_bytes(folder: Path, level: str, device: SimulatedDevice) -> int:
    """Of one real step of the lite tier, with nothing but the level different."""
    path = folder / f"{level}.toml"
    path.write_text(starter_config(compose(tier="lite", level=level)))
    config = load_config(path, TINY)
    gc.collect()
    before = device.read_memory().allocated_bytes or 0
    with device.host():
        task = open_task(Spec(config, folder, folder))
        seed_everything(0)
        model = task.build_model()
    adapt(model, config)
    device.place(model)
    train = config.train
    state = TrainingState(model.train(), make_optimizer(model, train), Progress(), device, Precision("fp32", device))
    step = GroupStep(state, task, BatchSplit(train.global_batch, config.micro_batch), Session(device.read_memory))
    step.train(range(train.global_batch), 0, train.learning_rate, train.max_grad_norm)
    return (device.read_memory().peak_allocated_bytes or 0) - before


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # transformers' own imports
def test_each_level_needs_less(tmp_path: Path, simulated: Callable[[int], SimulatedDevice]) -> None:
    (tmp_path / "text.txt").write_text("some words of a text that is long enough, though not very interesting " * 100)
    device = simulated(1 << 30)
    peaks = [peak_bytes(tmp_path, level, device) for level in LEVELS]
    assert peaks[1] < 0.75 * peaks[0], peaks
    assert peaks[2] < 0.75 * peaks[1], peaks

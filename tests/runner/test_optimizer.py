"""Every optimizer: torch's own bits, the state that is claimed, none of it a surprise, and no torn update that goes unseen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, AdamW, Optimizer, sgd

from memdash.config import TrainSection
from memdash.config_file import parse_config
from memdash.errors import ConfigError, UsageError
from runner.oom import OutOfMemoryStop
from runner.optimizer import make_optimizer, state_bytes
from runner.simulated import NativeLimiter, SimulatedDevice
from tests.runner.conftest import Trainer, assert_bitwise
from tests.runner.strategies import assert_same_checkpoint, run
from tests.runner.toy_task import ToyTask

Native = Callable[[int], tuple[SimulatedDevice, NativeLimiter]]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # transformers' own imports
WIDTH = 64  # one weight of 16 KiB
CHOICES = [
    {"optimizer": optimizer, "optimizer_impl": impl, "momentum": momentum}
    for optimizer, momentum in (("adamw", 0.0), ("sgd", 0.0), ("sgd", 0.9), ("adafactor", 0.0))
    for impl in ("fused", "foreach", "for-loop")
    if (optimizer, impl) != ("adafactor", "fused")
]
EIGHT_BIT = {"optimizer": "adamw8bit", "optimizer_impl": "auto", "momentum": 0.0}


def name(choice: dict[str, Any]) -> str:
    return "-".join(str(value) for value in choice.values() if value)


def section(choice: dict[str, Any]) -> TrainSection:
    return TrainSection(learning_rate=0.01, weight_decay=0.1, **choice)


def weights() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(8)))


def as_torch_has_it(model: nn.Module, choice: dict[str, Any]) -> Optimizer:
    """Its state not made before the first step, in the plainest implementation."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    fused = choice["optimizer_impl"] == "fused"
    foreach = choice["optimizer_impl"] == "foreach"
    if choice["optimizer"] == "adamw":
        return AdamW(groups, lr=0.01, fused=fused, foreach=foreach)
    if choice["optimizer"] == "sgd":
        return SGD(groups, lr=0.01, momentum=choice["momentum"], fused=fused, foreach=foreach)
    return Adafactor(groups, lr=0.01, foreach=foreach)


def steps(model: nn.Module, optimizer: Optimizer, count: int = 3) -> dict[str, Tensor]:
    """Parameters and state after a few updates."""
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        optimizer.zero_grad()
    found = dict(model.named_parameters())
    for key, parameter in list(found.items()):
        found |= {f"{key}.{part}": tensor for part, tensor in optimizer.state.get(parameter, {}).items()}
    return found


@pytest.mark.parametrize("choice", CHOICES, ids=name)
def test_a_state_made_before_trains_the_bits_of_one_made_in_the_first_step(choice: dict[str, Any]) -> None:
    ours, theirs = weights(), weights()
    mine = steps(ours, make_optimizer(ours, section(choice)))
    assert_bitwise(mine, steps(theirs, as_torch_has_it(theirs, choice)))


CLAIMED_PER_PARAMETER = {"adamw": 8.0, "sgd": 0.0, "sgd-0.9": 4.0, "adafactor": 2 * 4 / WIDTH}


@pytest.mark.parametrize("choice", CHOICES, ids=name)
def test_the_state_is_as_large_as_claimed_and_never_grows(native: Native, choice: dict[str, Any]) -> None:
    device, _ = native(1 << 30)
    with device.host():
        model = weights()
        optimizer_only = section(choice)
    device.place(model)
    before = device.read_memory().allocated_bytes or 0
    optimizer = make_optimizer(model, optimizer_only)
    made = (device.read_memory().allocated_bytes or 0) - before
    assert made == state_bytes(model, optimizer_only)
    matrices = 8 * WIDTH * WIDTH
    per_parameter = CLAIMED_PER_PARAMETER[name(choice).replace(f"-{choice['optimizer_impl']}", "")]
    assert made == pytest.approx(per_parameter * matrices, rel=0.1, abs=8 * 2 * 8 * WIDTH)
    steps(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = None
    assert (device.read_memory().allocated_bytes or 0) - before == made


MATRIX = 4 * WIDTH * WIDTH
TEMPORARY = {  # of an update, in bytes: at least, at most
    "fused": (0, 1024),
    "for-loop": (0, 4 * MATRIX),
    "foreach": (8 * MATRIX, 8 * 3 * MATRIX),
}


@pytest.mark.parametrize("choice", CHOICES, ids=name)
def test_an_update_takes_the_memory_that_its_implementation_is_chosen_for(
    native: Native, choice: dict[str, Any]
) -> None:
    device, _ = native(1 << 30)
    with device.host():
        model = weights()
    device.place(model)
    optimizer = make_optimizer(model, section(choice))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = device.read_memory().allocated_bytes or 0
    optimizer.step()
    temporary = (device.read_memory().peak_allocated_bytes or 0) - before
    least, most = TEMPORARY[choice["optimizer_impl"]]
    assert least <= temporary <= most


@pytest.mark.parametrize("choice", CHOICES, ids=name)
def test_each_resumes_to_the_bit(tmp_path: Path, choice: dict[str, Any]) -> None:
    whole = run(tmp_path / "whole", train=choice, checkpoint={"every_steps": 2, "keep_last": 9})
    assert all(loss == loss for loss in whole.losses)
    middle = str(tmp_path / "whole" / "checkpoints" / "step-00000002-full")
    assert_same_checkpoint(whole, run(tmp_path / "resumed", middle, train=choice))
    other = {"optimizer": "sgd" if choice["optimizer"] != "sgd" else "adamw"}
    with pytest.raises(UsageError, match=r"what is trained has changed \(optimizer"):
        run(tmp_path / "other", middle, train=other)


@pytest.mark.slow
@pytest.mark.parametrize("choice", CHOICES, ids=name)
def test_an_oom_at_any_allocation_of_an_update_is_repeated_to_the_bit_or_seen_as_torn(
    native: Native, quick_gc: None, choice: dict[str, Any]
) -> None:
    """Never repeated over weights of which some are updated: the commit's allocations lie at the end of the step."""
    device, limiter = native(1 << 30)

    def train(fail_in: int) -> tuple[dict[str, Any] | None, list[str]]:
        trainer = Trainer(ToyTask(dropout=0.3), group=4, micro_batch=4, device=device, train=section(choice))
        limiter.fail_in(fail_in)
        torn = None
        try:
            trainer.train(range(4))
        except OutOfMemoryStop as stop:
            torn = stop
        limiter.fail_in(0)
        where = [oom["where"] for oom in trainer.session.ooms]
        if torn is None:
            return trainer.everything(), where
        assert not torn.state_is_whole
        return None, where

    undisturbed, _ = train(0)
    assert undisturbed is not None
    point, in_update = 1, 0
    while True:
        found, where = train(point)
        if not where:
            break
        in_update += where == ["optimizer step"]
        if found is not None:
            assert_bitwise(found, undisturbed)
        point += 1
    assert in_update >= 1  # the norm of the gradients, at least


def test_a_fused_sgd_that_has_written_is_seen_as_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernel counts no writes, and without momentum there is no state that would show one."""
    trainer = Trainer(ToyTask(), group=4, micro_batch=4, train=TrainSection(learning_rate=0.01, optimizer="sgd"))
    update = sgd._fused_sgd

    def torn(*args: Any, **kwargs: Any) -> None:
        update(*args, **kwargs)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(sgd, "_fused_sgd", torn)
    with pytest.raises(OutOfMemoryStop, match="middle of an optimizer step") as stop:
        trainer.train(range(4))
    assert not stop.value.state_is_whole


@pytest.mark.parametrize(
    ("optimizer", "momentum", "learning_rate"), [("adamw", 0.0, 1e-2), ("sgd", 0.9, 0.2), ("adafactor", 0.0, 0.1)]
)
def test_each_learns(optimizer: Any, momentum: float, learning_rate: float) -> None:
    train = TrainSection(learning_rate=learning_rate, optimizer=optimizer, momentum=momentum)
    trainer = Trainer(ToyTask(width=32), group=20, micro_batch=20, train=train)
    losses = [trainer.step.train(range(20), 0, learning_rate, 1.0).loss for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({"optimizer": "adamw4bit"}, "not a known value"),
        ({"optimizer": "adamw8bit", "optimizer_impl": "fused"}, "one implementation"),
        ({"optimizer": "adafactor", "optimizer_impl": "fused"}, "torch has no fused adafactor"),
        ({"momentum": 0.9}, "adamw has none"),
        ({"optimizer": "sgd", "momentum": 1.0}, "at least 0 and below 1"),
    ],
)
def test_what_there_is_not_is_told(train: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_config({"train": train})

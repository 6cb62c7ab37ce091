"""AdamW with moments of one byte: bitsandbytes' own bits, a quarter of the state, checkpoints that hold all of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memdash.config import TrainSection
from memdash.errors import UsageError
from runner.in_backward import InBackward
from runner.oom import OutOfMemoryStop
from runner.optimizer import make_optimizer, state_bytes
from runner.planning.plan import Planner, Question
from runner.planning.room import Room
from runner.simulated import NativeLimiter, SimulatedDevice
from runner.spec import Spec
from runner.tasks.opening import open_task
from tests.runner.conftest import Trainer, assert_bitwise
from tests.runner.strategies import assert_same_checkpoint, run
from tests.runner.toy_task import ToyTask

bitsandbytes = pytest.importorskip("bitsandbytes")

Native = Callable[[int], tuple[SimulatedDevice, NativeLimiter]]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # transformers' own imports
EIGHT_BIT: dict[str, Any] = {"optimizer": "adamw8bit"}
TRAIN = TrainSection(learning_rate=0.01, weight_decay=0.1, **EIGHT_BIT)
WIDTH = 96  # 9,216 elements: in one byte each, the biases in four
TABLES = 2 * 4 * 256


def weights() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(4)))


def gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def everything(model: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    found = dict(model.named_parameters())
    for key, parameter in model.named_parameters():
        entry = optimizer.state[parameter].items()
        found |= {f"{key}.{part}": torch.as_tensor(value) for part, value in entry}
    return found


def test_a_state_made_before_trains_the_bits_of_one_made_in_the_first_step() -> None:
    ours, theirs = weights(), weights()
    mine = make_optimizer(ours, TRAIN)
    groups = [
        {"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in theirs.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    its = bitsandbytes.optim.AdamW8bit(groups, lr=0.01)
    for seed in range(3):
        for model, optimizer in ((ours, mine), (theirs, its)):
            gradients(model, seed)
            optimizer.step()
    assert_bitwise(everything(ours, mine), everything(theirs, its))
    assert everything(ours, mine)["0.weight.state1"].dtype == torch.uint8


def test_the_state_is_a_quarter_is_plain_tensors_and_never_grows(native: Native) -> None:
    device, _ = native(1 << 30)
    with device.host():
        model = weights()
    device.place(model)
    before = device.read_memory().allocated_bytes or 0
    optimizer = make_optimizer(model, TRAIN)
    made = (device.read_memory().allocated_bytes or 0) - before
    assert made == state_bytes(model, TRAIN) + TABLES
    assert made < 0.3 * state_bytes(model, TrainSection(optimizer="adamw"))
    assert {type(value) for entry in optimizer.state.values() for value in entry.values()} == {Tensor}
    gradients(model, 0)
    optimizer.step()
    for parameter in model.parameters():
        parameter.grad = None
    assert (device.read_memory().allocated_bytes or 0) - before == made


def test_it_resumes_to_the_bit(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", train=EIGHT_BIT, checkpoint={"every_steps": 2, "keep_last": 9})
    middle = str(tmp_path / "whole" / "checkpoints" / "step-00000002-full")
    assert_same_checkpoint(whole, run(tmp_path / "resumed", middle, train=EIGHT_BIT))
    assert any(t.dtype == torch.uint8 for t in whole.loop._state._optimizer_tensors().values())
    with pytest.raises(UsageError, match=r"what is trained has changed \(optimizer"):
        run(tmp_path / "other", middle)
    usual = run(tmp_path / "usual")
    assert usual.losses != whole.losses
    assert whole.losses == pytest.approx(usual.losses, rel=0.01)
    assert whole.start_bytes < 0.55 * usual.start_bytes


def test_an_update_in_the_backward_is_the_same() -> None:
    after, inside = weights(), weights()
    optimizers = [make_optimizer(model, TRAIN) for model in (after, inside)]
    in_backward = InBackward(optimizers[1], SimulatedDevice(1).host)
    for seed in range(3):
        x = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(seed))
        after(x).square().mean().backward()
        optimizers[0].step()
        optimizers[0].zero_grad()
        in_backward.begin(0.01)
        in_backward.begin_slice()
        inside(x).square().mean().backward()
    assert_bitwise(everything(after, optimizers[0]), everything(inside, optimizers[1]))


def test_an_oom_at_any_allocation_of_an_update_is_repeated_to_the_bit_or_seen_as_torn(
    native: Native, quick_gc: None
) -> None:
    device, limiter = native(1 << 30)

    def train(fail_in: int) -> tuple[dict[str, Any] | None, list[str]]:
        task = ToyTask(dropout=0.3, width=64, dtype="float32")
        trainer = Trainer(task, group=4, micro_batch=4, device=device, train=TRAIN)
        limiter.fail_in(fail_in)
        torn = None
        try:
            trainer.train(range(4))
        except OutOfMemoryStop as stop:
            torn = stop
        limiter.fail_in(0)
        where = [oom["where"] for oom in trainer.session.ooms]
        return (trainer.everything() if torn is None else None), where

    undisturbed, _ = train(0)
    assert undisturbed is not None
    point = torn = 0
    while True:
        point += 1
        found, where = train(point)
        if not where:
            break
        torn += found is None
        if found is not None:
            assert_bitwise(found, undisturbed)
    assert torn > 10  # on a CPU the codes are unpacked into temporary tensors


def test_it_learns() -> None:
    trainer = Trainer(ToyTask(width=64, dtype="float32"), group=20, micro_batch=20, train=TRAIN)
    losses = [trainer.step.train(range(20), 0, 0.01, 1.0).loss for _ in range(10)]
    assert losses[-1] < 0.1 * losses[0]


def test_the_plan_knows_it(tmp_path: Path) -> None:
    trial = run(tmp_path / "run", train={"max_steps": 5, **EIGHT_BIT})
    task = open_task(Spec(trial.loop._config, trial.run_dir, tmp_path), None)
    plan = Planner(task, task.build_model(), trial.loop._config, Room(1 << 40), Question(variants=False)).plan()
    held = {t.data_ptr(): t.nbytes for t in trial.loop._state._optimizer_tensors().values()}
    assert plan["rows"][-1]["terms"]["optimizer state"] == pytest.approx(sum(held.values()), rel=0.01)
    assert plan["rows"][-1]["worst_bytes"] == pytest.approx(trial.peak_bytes, rel=0.001)


def test_without_bitsandbytes_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UsageError, match="bitsandbytes cannot be imported here") as error:
        make_optimizer(weights(), TRAIN)
    assert error.value.hint == "pip install 'memdash[8bit]'"


@pytest.mark.parametrize(
    "problem", [RuntimeError("no kernel"), NotImplementedError("no kernel"), AttributeError("none")]
)
def test_a_build_that_cannot_do_it_here_is_told_before_the_first_step(
    monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def fails(*_: Any) -> None:
        raise problem

    monkeypatch.setattr(bitsandbytes.optim.AdamW8bit, "update_step", fails)
    with pytest.raises(UsageError, match="cannot update parameters on cpu: no"):
        make_optimizer(weights(), TRAIN)


def test_a_device_that_is_full_is_told_as_that(native: Native) -> None:
    device, limiter = native(1 << 30)
    model = weights()
    limiter.fail_in(1)
    with pytest.raises(torch.OutOfMemoryError):
        make_optimizer(model, TRAIN)

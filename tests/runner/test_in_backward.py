"""An update inside the backward: the same bits as one after it, no gradients beside each other, and no torn step done again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from memdash.config import TrainSection
from memdash.config_file import parse_config
from memdash.errors import ConfigError, UsageError
from runner.in_backward import InBackward
from runner.launch import prepare
from runner.oom import OutOfMemoryStop
from runner.optimizer import make_optimizer
from runner.planning.plan import Planner, Question
from runner.planning.room import Room
from runner.simulated import NativeLimiter, SimulatedDevice
from runner.spec import Spec
from runner.tasks.opening import open_task
from tests.runner.conftest import Trainer, assert_bitwise
from tests.runner.strategies import assert_same_checkpoint, run
from tests.runner.test_loop import Meddling, prepared
from tests.runner.test_optimizer import CHOICES, name
from tests.runner.toy_task import ToyTask

Native = Callable[[int], tuple[SimulatedDevice, NativeLimiter]]
Make = Callable[..., Path]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # transformers' own imports
AFTER = {"max_grad_norm": 0.0, "gradient_checkpointing": True}
INSIDE = {**AFTER, "optimizer_in_backward": True}
WIDE = {"hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}


def trainer(task: ToyTask, train: dict[str, Any], **more: Any) -> Trainer:
    made = Trainer(task, 8, 8, train=TrainSection(learning_rate=0.01, max_grad_norm=0.0, **train), **more)
    made.train = lambda indices: made.step.train(list(indices), 0, 0.01, 0.0).loss  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize("choice", CHOICES, ids=name)
def test_every_optimizer_trains_the_bits_of_an_update_after_the_backward(choice: dict[str, Any]) -> None:
    after, inside = (trainer(ToyTask(dropout=0.3, batch_norm=True), {**choice, **how}) for how in ({}, IN))
    for made in (after, inside):
        torch.manual_seed(3)
        for indices in (range(8), range(8, 16), range(16, 20)):
            made.train(indices)
    assert inside.state.in_backward
    assert_bitwise(after.everything(), inside.everything())


IN = {"optimizer_in_backward": True}


def test_a_run_holds_no_gradients_beside_each_other_and_trains_the_same_bits(tmp_path: Path) -> None:
    """BERT with dropout, tied weights and checkpointing; the norm that is reported is that of all gradients."""
    after, inside = (run(tmp_path / n, model={"config": WIDE}, train=t) for n, t in (("a", AFTER), ("i", INSIDE)))
    assert after.losses == inside.losses
    norms = [[report["grad_norm"] for report in trial.session.reports] for trial in (after, inside)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)
    assert_same_checkpoint(after, inside)
    gradients = sum(4 * p.numel() for p in inside.loop._state.model.parameters())
    saved = after.peak_bytes - inside.peak_bytes
    assert 0.5 * gradients < saved < gradients
    assert saved > 0.1 * after.peak_bytes


def test_it_resumes_to_the_bit_and_may_be_switched_on_by_a_resume(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", train=INSIDE, checkpoint={"every_steps": 2, "keep_last": 9})
    middle = str(tmp_path / "whole" / "checkpoints" / "step-00000002-full")
    assert_same_checkpoint(whole, run(tmp_path / "resumed", middle, train=INSIDE))
    before = run(tmp_path / "before", train=AFTER, checkpoint={"every_steps": 2, "keep_last": 9})
    middle = str(tmp_path / "before" / "checkpoints" / "step-00000002-full")
    switched = run(tmp_path / "switched", middle, train=INSIDE)
    assert switched.session.notices == ["resumed from step-00000002-full at step 2"]
    assert_same_checkpoint(before, switched)


def test_an_oom_at_any_allocation_is_redone_reported_or_torn(native: Native, quick_gc: None) -> None:
    """Nothing updated yet: the state is whole. Anything updated: the step is torn, and is never done again."""
    device, limiter = native(1 << 30)

    def train(fail_in: int) -> tuple[OutOfMemoryStop | None, Trainer, list[str]]:
        """What stopped it, and what it changed."""
        made = trainer(ToyTask(dropout=0.3), IN, device=device)
        before = made.everything()
        limiter.fail_in(fail_in)
        stop = None
        try:
            made.train(range(8))
        except OutOfMemoryStop as error:
            stop = error
        limiter.fail_in(0)
        return stop, made, [key for key, value in made.everything().items() if not torch.equal(value, before[key])]

    _, undisturbed, _ = train(0)
    redone = whole = torn = 0
    while True:
        stop, made, changed = train(redone + whole + torn + 1)
        if not made.session.ooms:
            break
        if stop is None:  # enough was reserved, so the same size was tried again
            redone += 1
            assert_bitwise(made.everything(), undisturbed.everything())
            continue
        whole, torn = whole + stop.state_is_whole, torn + (not stop.state_is_whole)
        assert bool(changed) == (not stop.state_is_whole)
        last = made.session.ooms[-1]
        assert last["next_micro_batch"] is None
        assert last["where"] == ("forward/backward" if stop.state_is_whole else "optimizer step")
        assert all(p.grad is None for p in made.state.model.parameters())
        assert ("the 8 examples of a step" in str(stop)) == stop.state_is_whole
        hint = "train.optimizer_in_backward = false lets the group be cut"
        assert (stop.hint == hint) == stop.state_is_whole
    assert redone + whole > 10
    assert torn > 3


def test_a_torn_step_goes_back_to_the_last_checkpoint(toy_run: Make) -> None:
    """And from there it is bitwise the run that was never torn."""
    sections: dict[str, Any] = {
        "train": {"global_batch": 8, "max_steps": 6, "max_grad_norm": 0.0, **IN},
        "checkpoint": {"every_steps": 2, "at_end": "full"},
        "options": {"dropout": 0.3},
    }
    calm = prepared(toy_run("calm", **sections), Meddling())
    calm.run()
    torn = prepared(toy_run("torn", **sections), Meddling())
    fail_in_update(torn, at_step=4)
    session = torn._session
    assert torn.run() == "finished"
    assert isinstance(session, Meddling)
    assert [notice for notice in session.notices if "went back to step-00000004-full" in notice]
    assert_bitwise(*({n: t.clone() for n, t in loop._state.model.state_dict().items()} for loop in (calm, torn)))


def fail_in_update(loop: Any, at_step: int) -> None:
    """The third update of a step runs out of memory, once."""
    optimizer = loop._state.optimizer
    step, calls = optimizer.step, [0]

    def fails() -> None:
        if loop._state.progress.step == at_step:
            calls[0] += 1
            if calls[0] == 3:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
        step()

    optimizer.step = fails


def test_nobody_cuts_its_steps(toy_run: Make) -> None:
    run_dir = toy_run(train={"global_batch": 8, "max_grad_norm": 0.0, **IN})
    session = Meddling()
    loop = prepared(run_dir, session)
    for command in ("SetBatchSplit", "CapStep"):
        assert "trains a step in one slice" in session._control.capabilities()[command]
    with pytest.raises(UsageError, match="micro-batch 4: train.optimizer_in_backward"):
        loop._step.ask(4)
    with pytest.raises(UsageError, match="micro-batch 2: train.optimizer_in_backward"):
        prepare(Spec(loop._config, run_dir, run_dir.parent, micro_batch=2), Meddling())


def test_a_resume_does_not_take_over_a_smaller_split(toy_run: Make) -> None:
    train = {"global_batch": 8, "max_steps": 4, "max_grad_norm": 0.0}
    run_dir = toy_run(train=train, checkpoint={"every_steps": 2})
    loop = prepared(run_dir, Meddling())
    loop._step.ask(2)
    loop.run()
    again = prepared(toy_run("again", train={**train, **IN}), Meddling(), str(next(run_dir.glob("checkpoints/*-full"))))
    assert again._step.split.micro_batch == 8


class TwoParts(nn.Module):
    """One layer used in two reentrant checkpoints: each hands its part of the gradient over by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return checkpoint(self.layer, checkpoint(self.layer, x, use_reentrant=True), use_reentrant=True)


def test_a_gradient_that_comes_in_parts_is_an_error() -> None:
    made = trainer(ToyTask(), IN)
    model = TwoParts()
    optimizer = make_optimizer(model, TrainSection())
    inside = InBackward(optimizer, made.device.host)
    inside.begin(0.01)
    inside.begin_slice()
    with pytest.raises(UsageError, match="came in two parts"):
        model(torch.ones(2, 4, requires_grad=True)).sum().backward()


def test_what_contradicts_it_is_told() -> None:
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"train": {**IN, "global_batch": 8, "micro_batch": 4, "max_grad_norm": 0}}, "cuts a step", "micro_batch = 0"),
        ({"train": IN}, "nothing can be clipped", "set train.max_grad_norm = 0"),
        ({"train": {**IN, "max_grad_norm": 0, "precision": "fp16"}}, "has overflowed", '"bf16" or "fp32"'),
        ({"train": {**IN, "max_grad_norm": 0}, "data": {"outlier_length": 9}}, "several slices", "drop"),
    ]
    for sections, words, hint in wrong:
        with pytest.raises(ConfigError, match=words) as error:
            parse_config(sections)
        assert hint in error.value.hint
    parse_config({"train": {**IN, "max_grad_norm": 0, "micro_batch": 8, "global_batch": 8}})


def test_the_plan_knows_it(tmp_path: Path) -> None:
    trial = run(tmp_path / "run", train={"max_grad_norm": 0.0, "max_steps": 5, **IN})
    task = open_task(Spec(trial.loop._config, trial.run_dir, tmp_path), None)
    planner = Planner(task, task.build_model(), trial.loop._config, Room(1 << 40), Question(variants=False))
    (row,) = planner.plan()["rows"]  # nothing smaller is offered
    assert row["worst_bytes"] == pytest.approx(trial.peak_bytes, rel=0.001)
    assert planner._base.estimator.phase("commit", 8, max(task.train_lengths)).terms["gradients"] == 0

"""Evaluation leaves no trace in training, and an OOM in it shrinks nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from memdash.config import DataSection, RunConfig
from runner.evaluation import Evaluation
from runner.optimizer import Plan
from runner.tasks.selection import select
from tests.runner.conftest import Trainer, assert_bitwise
from tests.runner.toy_task import ToyTask


class Recorded(Evaluation):
    """Keeps the sizes of the batches that were tried."""

    def __init__(self, trainer: Trainer, fits: int = 100) -> None:
        super().__init__(trainer.state, trainer.task, trainer.session)
        self.tried: list[int] = []
        self._fits = fits

    def _one(self, indices: Any) -> Any:
        self.tried.append(len(indices))
        if len(indices) > self._fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
        return super()._one(indices)


def test_it_leaves_no_trace() -> None:
    trainer = Trainer(ToyTask(dropout=0.3, batch_norm=True), 8, 4)
    trainer.train(range(8))
    before = trainer.everything()
    assert Recorded(trainer).run(4)
    after = trainer.everything()
    assert_bitwise(after, before)
    assert trainer.state.model.training


@pytest.mark.parametrize("micro_batch", [1, 4, 8])
def test_metrics_do_not_depend_on_the_batch(micro_batch: int) -> None:
    trainer = Trainer(ToyTask(held_out=7), 8, 4)
    evaluation = Recorded(trainer)
    evaluation.run(micro_batch)
    batch = trainer.task.collate("validation", range(7), 0)
    with torch.no_grad():
        sums = trainer.task.metric_sums(trainer.state.model, batch)
    whole = sums["loss"] / trainer.task.count_items(batch)
    assert evaluation.metrics["loss"] == pytest.approx(whole)


def test_an_oom_shrinks_the_evaluation_batch_only() -> None:
    trainer = Trainer(ToyTask(held_out=7), 8, 8)
    evaluation = Recorded(trainer, fits=2)
    assert evaluation.run(8)
    assert evaluation.tried == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    assert "loss" in evaluation.metrics
    assert trainer.step.split.micro_batch == 8
    assert [oom["where"] for oom in trainer.session.ooms] == ["evaluation"] * 2
    evaluation.tried.clear()
    evaluation.run(8)
    assert evaluation.tried == [1] * 7  # what did not fit is not tried again


def test_an_oom_in_an_evaluation_is_reported_with_its_figures(native: Any) -> None:
    device, limiter = native(1 << 30)
    trainer = Trainer(ToyTask(held_out=7), 8, 8, device=device)
    limiter.fail_in(1)
    assert Evaluation(trainer.state, trainer.task, trainer.session).run(8)
    (oom,) = trainer.session.ooms
    assert oom["requested_bytes"] > 0
    assert (oom["memory"].kind, oom["memory"].num_ooms) == ("simulated", 1)


def test_one_example_too_large_skips_the_evaluation_and_says_so() -> None:
    trainer = Trainer(ToyTask(), 8, 8)
    evaluation = Recorded(trainer, fits=0)
    assert evaluation.run(8)
    assert not evaluation.metrics
    assert "evaluation skipped" in trainer.session.notices[0]


class Scored(ToyTask):
    """Tells a ratio of two sums, which no mean over tokens is."""

    def metric_sums(self, model: Any, batch: Any) -> dict[str, float]:
        return {"loss": float(self.loss_sum(model, batch)), "rows": float(len(batch["labels"]))}

    def finish_metrics(self, sums: Any, num_items: int) -> dict[str, float]:
        return {"loss": sums["loss"] / num_items, "tokens_per_row": num_items / sums["rows"]}


@pytest.mark.parametrize("micro_batch", [1, 4, 8])
def test_a_task_may_finish_its_metrics_itself(micro_batch: int) -> None:
    trainer = Trainer(Scored(held_out=7), 8, 4)
    evaluation = Recorded(trainer)
    evaluation.run(micro_batch)
    tokens = trainer.task.count_items(trainer.task.collate("validation", range(7), 0))
    assert evaluation.metrics["tokens_per_row"] == pytest.approx(tokens / 7)
    assert set(evaluation.metrics) == {"loss", "tokens_per_row"}


@pytest.mark.parametrize("kind", [ToyTask, Scored])
def test_a_selection_has_the_metrics_of_its_task(kind: type[ToyTask]) -> None:
    config = RunConfig(data=DataSection(subset_ratio=0.5))
    trainer = Trainer(select(kind(count=40, held_out=8), config), 8, 4)  # type: ignore[arg-type]
    evaluation = Recorded(trainer)
    evaluation.run(4)
    assert ("tokens_per_row" in evaluation.metrics) == (kind is Scored)
    assert evaluation.metrics["loss"] > 0


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_the_learning_rate_is_a_function_of_the_step(schedule: Any, expected: list[float]) -> None:
    from memdash.config import TrainSection

    train = TrainSection(learning_rate=1.0, warmup_steps=2, max_steps=6, schedule=schedule)
    plan = Plan(20, 3, train)
    assert [plan.learning_rate(step) for step in range(6)] == pytest.approx(expected)
    assert plan.steps_per_epoch == 7
    assert Plan(20, 3, TrainSection(epochs=1.5)).total_steps == 11

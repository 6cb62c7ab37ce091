"""The loop as a whole, in this process: every example once an epoch whatever happens, saves that hold the right moment."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from memdash import wire
from memdash.agent.session import Session
from memdash.config import RunConfig
from memdash.errors import StoreError
from runner.checkpoint import CheckpointStore
from runner.launch import prepare
from runner.loop import Loop
from runner.randomness import RngState
from runner.spec import Spec
from runner.training_state import _read, read_training

Make = Callable[..., Path]


class Meddling(Session):
    """Calls `meddle` wherever commands are obeyed."""

    def __init__(self, meddle: Callable[[], bool] = lambda: True) -> None:
        super().__init__()
        self.meddle = meddle
        self.reports: list[dict[str, Any]] = []
        self.notices: list[str] = []

    def obey(self) -> bool:
        return self.meddle()

    def end_step(self, **report: Any) -> bool:
        self.reports.append(report)
        return super().end_step(**report)

    def notice(self, text: str, *, level: str = "info") -> None:
        self.notices.append(text)


def prepared(run_dir: Path, session: Session, resume: str = "") -> Loop:
    config = msgspec.json.decode((run_dir / "config.json").read_bytes(), type=RunConfig)
    return prepare(Spec(config, run_dir, run_dir.parent, resume), session)


@pytest.mark.parametrize("seed", range(3))
def test_every_example_once_an_epoch_whatever_happens(toy_run: Make, seed: int) -> None:
    """OOMs, re-batches, a stop and a resume in any mixture; learning rates and step count are those of a calm run."""
    chance = random.Random(seed)
    train = {"global_batch": 6, "epochs": 4, "warmup_steps": 3}
    calm_session = Meddling()
    prepared(toy_run("calm", train=train), calm_session).run()
    run_dir = toy_run("stormy", train=train, checkpoint={"at_end": "none"})
    taken: Counter[tuple[int, int]] = Counter()
    reports: list[dict[str, Any]] = []
    going = True
    while going:
        session = Meddling()
        loop = prepared(run_dir, session, "latest" if reports else "")
        steps_left = [chance.randint(2, 6)]
        session.meddle = lambda loop=loop, left=steps_left: meddle(loop, chance, left)  # type: ignore[misc]
        watch(loop, chance, taken)
        outcome = loop.run()
        reports += session.reports
        going = outcome == "stopped"
    assert set(taken.values()) == {1}
    assert len(taken) == 4 * 20
    assert [r["learning_rate"] for r in reports] == [r["learning_rate"] for r in calm_session.reports]
    assert [r["examples_seen"] for r in reports] == [r["examples_seen"] for r in calm_session.reports]
    for stormy, calm in zip(reports, calm_session.reports, strict=True):
        assert stormy["loss"] == pytest.approx(calm["loss"], abs=1e-10)


def meddle(loop: Loop, chance: random.Random, steps_left: list[int]) -> bool:
    """Between two steps: perhaps another split; after a few steps a full checkpoint and a stop."""
    if chance.random() < 0.5:
        loop._on_set_batch_split(wire.SetBatchSplit(command_id="x", micro_batch=chance.randint(1, 6)))
    steps_left[0] -= 1
    if steps_left[0] > 0:
        return True
    loop.saving.save("full", "command")
    return False


def watch(loop: Loop, chance: random.Random, taken: Counter[tuple[int, int]]) -> None:
    """Count what is committed, and let forwards fail now and then."""
    step, task = loop._step, loop._step._task
    real_train, real_loss = step.train, task.loss_sum

    def train(indices: Any, epoch: int, *rest: Any) -> Any:
        result = real_train(indices, epoch, *rest)
        taken.update((epoch, index) for index in indices)
        return result

    def loss_sum(model: Any, batch: Any) -> Any:
        if step.split.micro_batch > 1 and chance.random() < 0.2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
        return real_loss(model, batch)

    step.train, task.loss_sum = train, loss_sum  # type: ignore[method-assign]


def test_a_checkpoint_saved_in_an_evaluation_is_of_the_moment_before_it(toy_run: Make) -> None:
    session = Meddling()
    loop = prepared(toy_run(train={"max_steps": 2}), session)
    task = loop._step._task
    real = task.metric_sums

    def draws(model: Any, batch: Any) -> Any:
        torch.rand(5)
        return real(model, batch)

    task.metric_sums = draws  # type: ignore[method-assign]
    before = RngState.capture()
    saved: list[str] = []

    def save_once() -> bool:
        if torch.get_rng_state().ne(before.cpu).any() and not saved:
            saved.append(loop.saving.save("full", "command"))
        return True

    session.meddle = save_once
    loop._evaluation.run(2)
    path = loop.saving._store.folder / Path(saved[0].split(" at ")[1]).name
    assert torch.equal(_read(path / "state.safetensors", "rng.")["rng.torch"], before.cpu)
    assert read_training(path)["progress"]["step"] == 0
    assert torch.equal(torch.get_rng_state(), before.cpu)


def test_a_scheduled_save_that_fails_does_not_end_the_run(toy_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Meddling()
    loop = prepared(toy_run(train={"max_steps": 4}, checkpoint={"every_steps": 2, "at_end": "none"}), session)

    def no_room(*_: Any) -> None:
        raise StoreError("no room for a checkpoint")

    monkeypatch.setattr(CheckpointStore, "save", no_room)
    assert loop.run() == "finished"
    assert session.notices == [
        "checkpoint not saved, training goes on: no room for a checkpoint",
        "the checkpoint is tried again after 1m00s of training",
    ]

"""One optimizer step: the same whatever the split, and whatever memory does meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from memdash.batching import BatchSplit, slices
from runner.groups import Groups
from runner.oom import OutOfMemoryStop
from runner.simulated import NativeLimiter, SimulatedDevice
from tests.runner.conftest import Trainer, assert_bitwise, largest_difference
from tests.runner.toy_task import IGNORED, ToyTask

Native = Callable[[int], tuple[SimulatedDevice, NativeLimiter]]
GROUPS = [range(0, 8), range(8, 16), range(16, 20)]  # the last is short


def trained(micro_batch: int, task: ToyTask | None = None) -> dict[str, Any]:
    trainer = Trainer(task or ToyTask(), group=8, micro_batch=micro_batch)
    for indices in GROUPS:
        trainer.train(indices)
    return trainer.everything()


@pytest.mark.parametrize("micro_batch", [4, 3, 1])
def test_any_split_trains_what_one_slice_does(micro_batch: int) -> None:
    assert largest_difference(trained(8), trained(micro_batch)) <= 1e-10


class MeanOfMeans(ToyTask):
    """What most training scripts do: each slice's own mean, divided by the number of slices."""

    def loss_sum(self, model: Any, batch: Any) -> Any:
        logits = model(batch["tokens"])
        mean = cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED)
        group = next(list(indices) for indices in GROUPS if self.seen < indices.stop)
        items = sum(self.count_items(self.collate("train", [i], 0)) for i in group)
        self.seen += len(batch["labels"])
        return mean * items / len(slices(len(group), self.micro_batch))

    seen = 0
    micro_batch = 8


def test_the_comparison_would_notice_a_mean_of_means() -> None:
    wrong = MeanOfMeans()
    wrong.micro_batch = 3
    assert largest_difference(trained(8), trained(8, MeanOfMeans())) <= 1e-10
    assert largest_difference(trained(8), trained(3, wrong)) > 1e-4


def test_the_split_may_change_at_every_step() -> None:
    trainer = Trainer(ToyTask(), group=8, micro_batch=8)
    for micro_batch, indices in zip((5, 2, 7), GROUPS, strict=True):
        trainer.step.ask(micro_batch)
        trainer.train(indices)
    assert largest_difference(trained(8), trainer.everything()) <= 1e-10


@pytest.mark.parametrize("seed", range(3))
def test_any_splits_over_many_steps_train_the_same(seed: int) -> None:
    chance = random.Random(seed)
    whole, cut = (Trainer(ToyTask(), group=8, micro_batch=8) for _ in range(2))
    for _ in range(30):
        indices = chance.choice(GROUPS)
        cut.step.ask(chance.randint(1, 8))
        assert cut.train(indices) == pytest.approx(whole.train(indices), abs=1e-12)
    assert largest_difference(whole.everything(), cut.everything()) <= 1e-10


@pytest.mark.slow
def test_a_passing_oom_at_any_allocation_leaves_no_trace(native: Native, quick_gc: None) -> None:
    """Dropout and BatchNorm on: parameters, buffers, optimizer and generators are those of an undisturbed run."""
    device, limiter = native(1 << 30)

    def run(fail_in: int) -> tuple[dict[str, Any], int]:
        trainer = Trainer(ToyTask(dropout=0.3, batch_norm=True), group=8, micro_batch=4, device=device)
        limiter.fail_in(fail_in)
        trainer.train(GROUPS[0])
        limiter.fail_in(0)
        trainer.train(GROUPS[2])
        return trainer.everything(), len(trainer.session.ooms)

    undisturbed, num_ooms = run(0)
    assert num_ooms == 0
    points = 0
    while True:
        recovered, num_ooms = run(points + 1)
        if not num_ooms:
            break
        assert num_ooms == 1
        assert_bitwise(recovered, undisturbed)
        points += 1
    assert points > 60  # forward and backward of two slices, the norm of the gradients


def test_a_device_too_small_ends_at_the_split_that_fits(native: Native) -> None:
    options: dict[str, Any] = {"count": 32, "width": 64}

    def run(capacity: int) -> tuple[Trainer, int]:
        device, _ = native(capacity)
        trainer = Trainer(ToyTask(**options), group=16, micro_batch=16, device=device)
        device.read_memory()
        trainer.train(range(16))
        peak = device.read_memory().peak_allocated_bytes
        trainer.train(range(16, 32))
        device.stop()
        return trainer, peak or 0

    large, peak_at_16 = run(1 << 30)
    trainer = Trainer(ToyTask(**options), group=16, micro_batch=4, device=(device := native(1 << 30)[0]))
    device.read_memory()
    trainer.train(range(16))
    peak_at_4 = device.read_memory().peak_allocated_bytes or 0
    assert peak_at_4 < peak_at_16
    del trainer
    small, _ = run(peak_at_4 + (peak_at_16 - peak_at_4) // 16)
    assert [oom["next_micro_batch"] for oom in small.session.ooms] == [8, 4]
    for oom in small.session.ooms:  # the figures of the moment, not of the time after the failed frames were unwound
        assert oom["memory"].allocated_bytes + oom["requested_bytes"] > oom["memory"].capacity_bytes
    assert small.step.split == BatchSplit(16, 4)
    assert largest_difference(large.everything(), small.everything()) <= 1e-10


def test_an_example_that_does_not_fit_alone_is_named(native: Native) -> None:
    device, limiter = native(1 << 30)
    trainer = Trainer(ToyTask(width=256), group=8, micro_batch=2, device=device)
    whole = trainer.everything()
    limiter.start((device.read_memory().allocated_bytes or 0) + 64 * 1024)
    alone = rf"example 8 alone, of length {trainer.task.train_lengths[8]}\b.* asked for \S+ KiB with \S+ MiB allocated"
    with pytest.raises(OutOfMemoryStop, match=alone) as stop:
        trainer.train(GROUPS[1])
    limiter.start(1 << 30)
    assert stop.value.state_is_whole
    assert trainer.session.ooms[-1]["next_micro_batch"] is None
    assert_bitwise(trainer.everything(), whole)


class Keeping(ToyTask):
    """A task that keeps something of every batch on the device."""

    kept: ClassVar[list[Tensor]] = []

    def loss_sum(self, model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        self.kept.append(batch["tokens"].new_zeros(32 * 1024))
        return super().loss_sum(model, batch)


def test_what_is_kept_from_step_to_step_is_not_blamed_on_an_example(native: Native) -> None:
    device, _ = native(16 << 20)
    trainer = Trainer(Keeping(width=64, count=800), group=800, micro_batch=1, device=device)
    try:
        with pytest.raises(OutOfMemoryStop, match=r"MiB of 16\.0 MiB stay allocated between steps .* a retained graph"):
            trainer.train(range(800))
    finally:
        Keeping.kept.clear()


def test_a_torn_update_is_never_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(ToyTask(), group=8, micro_batch=8)

    def torn() -> None:
        with torch.no_grad():
            next(trainer.state.model.parameters()).add_(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(trainer.state.optimizer, "step", torn)
    with pytest.raises(OutOfMemoryStop, match="middle of an optimizer step") as stop:
        trainer.train(GROUPS[0])
    assert not stop.value.state_is_whole
    assert trainer.session.ooms[0]["where"] == "optimizer step"


def test_a_commit_that_wrote_nothing_is_redone_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calm, shaken = (Trainer(ToyTask(dropout=0.3), group=8, micro_batch=4) for _ in range(2))
    torch.manual_seed(5)
    calm.train(GROUPS[0])
    expected = calm.everything()
    step = shaken.state.optimizer.step
    failures = iter([True, False])

    def fail_once() -> Any:
        if next(failures):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
        return step()

    monkeypatch.setattr(shaken.state.optimizer, "step", fail_once)
    torch.manual_seed(5)
    shaken.train(GROUPS[0])
    assert_bitwise(shaken.everything(), expected)
    monkeypatch.setattr(shaken.state.optimizer, "step", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        shaken.train(GROUPS[1])


def test_other_errors_are_not_taken_for_oom() -> None:
    trainer = Trainer(ToyTask(fail_at_step=1), group=8, micro_batch=8)
    with pytest.raises(ZeroDivisionError):
        trainer.train(GROUPS[0])
    assert not trainer.session.ooms


def test_every_example_is_taken_once_an_epoch() -> None:
    chance = random.Random(3)
    for _ in range(20):
        count, group = chance.randint(1, 40), chance.randint(1, 9)
        groups, taken, position = Groups(count, group, seed=7), [], 0
        while position < count:
            indices = groups.at(2, position)
            taken += indices
            position += len(indices)
            groups = chance.choice([groups, Groups(count, group, seed=7)])  # as after a resume
        assert sorted(taken) == list(range(count))
    assert Groups(40, 8, 7).at(0, 0) != Groups(40, 8, 7).at(1, 0)
    assert Groups(40, 8, 7).at(0, 0) != Groups(40, 8, 8).at(0, 0)

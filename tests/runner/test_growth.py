"""A micro-batch that was shrunk comes back up: once a wait, never above what was asked, not where it is known to fail."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import torch

from runner.growth import Growth, Thrashing
from tests.runner.conftest import Trainer, largest_difference
from tests.runner.toy_task import ToyTask

if TYPE_CHECKING:
    import pytest

AFTER = 4


def shrunk(longest: int = 50) -> Growth:
    """16, asked for by a person, did not fit for a group whose longest example had this length."""
    growth = Growth.start(16, 16, AFTER)
    growth.failed(16, longest, 8)
    return growth


def clean_steps(growth: Growth, count: int, longest: int = 10) -> list[int]:
    sizes = []
    for _ in range(count):
        sizes.append(growth.choose(longest))
        growth.succeeded(sizes[-1], longest)
    return sizes


def test_it_says_which_groups_it_keeps_small() -> None:
    growth = shrunk()
    assert growth.kept_small() == (0, 0)  # 8 has failed for none
    clean_steps(growth, AFTER + 1)
    assert growth.settled == 16
    length, steps = growth.kept_small()
    assert (length, steps) == (50, AFTER)
    for left in range(steps, 0, -1):
        assert growth.kept_small() == (50, left)
        assert growth.choose(50) < growth.settled
        growth.succeeded(growth.choose(10), 10)
    assert growth.kept_small() == (0, 0)
    assert growth.choose(50) == growth.settled


def test_it_comes_back_after_the_wait() -> None:
    assert clean_steps(shrunk(), 7) == [8, 8, 8, 8, 16, 16, 16]
    twice = shrunk()
    twice.failed(8, 60, 4)
    assert clean_steps(twice, 11) == [4, 4, 4, 4, 8, 8, 8, 8, 8, 16, 16]


def test_zero_is_never() -> None:
    growth = Growth.start(16, 16, 0)
    growth.failed(16, 50, 8)
    assert clean_steps(growth, 1000, longest=1) == [8] * 1000


def test_it_never_goes_above_what_was_asked() -> None:
    growth = Growth.start(12, 5, AFTER)
    growth.failed(5, 50, 2)
    assert clean_steps(growth, 20)[-1] == 5
    assert Growth.start(12, 5, AFTER).choose(10) == 5


def test_a_failed_try_doubles_the_wait_for_groups_as_long() -> None:
    growth, tries = shrunk(), []
    for step in range(200):
        size = growth.choose(50)
        if size == 16:
            tries.append(step)
            growth.failed(16, 50, growth.settled)
        else:
            growth.succeeded(size, 50)
    assert growth.settled == 8
    waits = [later - earlier for earlier, later in zip(tries, tries[1:], strict=False)]
    assert tries[0] == AFTER
    assert waits == [9, 17, 33, 65]  # 8, 16, ... clean steps and the try itself


def test_shorter_groups_need_not_wait_so_long() -> None:
    growth = shrunk(50)
    clean_steps(growth, AFTER, longest=50)
    assert growth.choose(50) == 16
    growth.failed(16, 50, 8)
    clean_steps(growth, AFTER, longest=50)
    assert growth.choose(50) == 8
    assert growth.choose(49) == 16


def test_a_long_group_is_cut_smaller_for_itself_alone() -> None:
    growth = shrunk(50)
    clean_steps(growth, AFTER + 1)
    assert growth.settled == 16
    assert growth.choose(50) == 8
    assert "length 50" in growth.why(8, 50)
    growth.succeeded(8, 50)
    assert growth.choose(10) == 16


def test_growing_that_fails_again_counts_as_a_failed_try() -> None:
    growth = shrunk(50)
    clean_steps(growth, 3 * AFTER)
    growth.failed(16, 30, 8)
    assert growth.wait == 2 * AFTER


def test_a_success_disproves_a_failure() -> None:
    growth = shrunk(50)
    clean_steps(growth, AFTER)
    growth.wait = 8 * AFTER
    growth.succeeded(16, 60)
    assert not growth.failures
    assert growth.wait == AFTER
    assert growth.choose(60) == 16


def test_it_survives_a_checkpoint() -> None:
    growth = shrunk(50)
    clean_steps(growth, 3)
    growth.failed(8, 70, 4)
    again = Growth.start(16, 16, AFTER)
    again.load(json.loads(json.dumps(growth.save())))
    assert again == growth


def test_thrashing_is_two_clean_groups_running() -> None:
    thrashing = Thrashing()
    figures = [
        (0, False),
        (3, False),
        (3, False),
        (5, False),
        (6, False),
        (7, False),
        (9, True),
        (10, False),
        (11, False),
    ]
    seen = [thrashing.seen(retries, recovered=recovered) for retries, recovered in figures]
    assert seen == [False, False, False, False, True, False, False, False, True]


class Limited(ToyTask):
    """Slices of more than so many tokens do not fit."""

    fits = 10_000

    def loss_sum(self, model: Any, batch: Any) -> Any:
        if batch["tokens"].numel() > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
        return super().loss_sum(model, batch)


def test_one_long_example_does_not_keep_a_run_small() -> None:
    """Trained with growth and without any limit: the same model; the sizes tell the story."""
    task = Limited(count=160)
    task.parts["train"] = [text[:4] for text in task.parts["train"]]
    task.parts["train"][20] = torch.tensor([1, 2, 3, 4, 5, 6, 1, 2])
    task.train_lengths = [len(text) for text in task.parts["train"]]
    free, limited = (Trainer(task, group=8, micro_batch=8, grow_after=3) for _ in range(2))
    groups = [range(start, start + 8) for start in range(0, 160, 8)]
    for indices in groups:
        free.train(indices)
    task.fits, sizes = 40, []
    for indices in groups:
        limited.train(indices)
        sizes.append(limited.step.split.micro_batch)
    assert sizes == [8, 8, 4, 4, 4, 4] + [8] * 14
    assert [oom["next_micro_batch"] for oom in limited.session.ooms] == [4]
    assert limited.session.changes == [(4, 8, "3 steps without an OOM")]
    assert largest_difference(free.everything(), limited.everything()) <= 1e-10


def test_a_try_that_fails_costs_one_redo_and_goes_back() -> None:
    task = Limited()
    trainer = Trainer(task, group=8, micro_batch=8, grow_after=2)
    calm = Trainer(ToyTask(), group=8, micro_batch=4)
    task.fits = 4 * 8
    for _ in range(6):
        trainer.train(range(8))
        calm.train(range(8))
    assert trainer.step.split.micro_batch == 4
    assert [(oom["micro_batch"], oom["next_micro_batch"]) for oom in trainer.session.ooms] == [(8, 4), (8, 4)]
    assert trainer.step.growth.wait == 4
    assert not trainer.session.changes
    assert trainer.session.notices == ["micro-batch 8 is tried again: 2 steps without an OOM"]
    assert largest_difference(calm.everything(), trainer.everything()) <= 1e-10


def test_a_person_who_asks_starts_it_anew() -> None:
    task = Limited()
    trainer = Trainer(task, group=8, micro_batch=8, grow_after=2)
    task.fits = 4 * 8
    trainer.train(range(8))
    trainer.step.ask(2)
    task.fits = 10_000
    for _ in range(9):
        trainer.train(range(8))
    assert trainer.step.split.micro_batch == 2
    assert not trainer.session.changes


def test_the_short_last_group_proves_nothing() -> None:
    task = Limited()
    trainer = Trainer(task, group=8, micro_batch=8, grow_after=1)
    task.fits = 4 * 8
    trainer.train(range(8))
    trainer.train(range(4))
    trainer.train(range(16, 20))
    assert trainer.step.split.micro_batch == 4


def test_a_thrashing_allocator_shrinks_the_next_group(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(ToyTask(), group=8, micro_batch=8)
    retries = iter([0, 2, 5, 5, 5, 9, 12])
    monkeypatch.setattr(trainer.device, "num_alloc_retries", lambda: next(retries))
    sizes = []
    for _ in range(7):
        trainer.train(range(8))
        sizes.append(trainer.step.split.micro_batch)
    assert sizes == [8, 8, 4, 4, 4, 4, 2]
    assert not trainer.session.ooms
    assert "cache had to be emptied" in trainer.session.changes[0][2]


def test_random_storms_keep_the_size_between_one_and_what_was_asked() -> None:
    chance = random.Random(5)
    for _ in range(50):
        group = chance.randint(1, 24)
        growth = Growth.start(group, chance.randint(1, group), chance.randint(0, 5))
        for _ in range(200):
            longest = chance.randint(1, 20)
            size = growth.choose(longest)
            assert 1 <= size <= growth.asked
            while size > 1 and chance.random() < 0.2:
                chosen = growth.settled if size > growth.settled else max(1, size // 2)
                growth.failed(size, longest, chosen)
                size = chosen
            growth.succeeded(size, longest)


def test_a_failed_try_goes_back_to_the_size_that_held() -> None:
    """Not to the half of what failed: 5 of 12 was asked for, 4 is known to fit."""
    task = Limited()
    task.parts["train"] = [text.repeat(4)[:4] for text in task.parts["train"]]
    task.train_lengths = [4] * 20
    trainer = Trainer(task, group=12, micro_batch=5, grow_after=1)
    task.fits, sizes = 4 * 4, []
    for _ in range(5):
        trainer.train(range(12))
        sizes.append(trainer.step.split.micro_batch)
    assert sizes == [2, 2, 4, 4, 4]
    assert [(oom["micro_batch"], oom["next_micro_batch"]) for oom in trainer.session.ooms] == [(5, 2), (5, 4)]

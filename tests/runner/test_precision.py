"""Mixed precision: the loss scale skips overflows, and no recovery or resume leaves a trace in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from runner.device import CpuDevice
from runner.evaluation import Evaluation
from runner.optimizer import commit
from runner.precision import Name, Precision
from runner.simulated import NativeLimiter, SimulatedDevice
from tests.runner.conftest import Trainer, assert_bitwise, largest_difference
from tests.runner.test_training_state import save
from tests.runner.toy_task import ToyTask

Native = Callable[[int], tuple[SimulatedDevice, NativeLimiter]]
GROUPS = [range(0, 8), range(8, 16), range(16, 20)]
START = 65536.0


class Watched(ToyTask):
    """Keeps the type of the logits, and can make a loss overflow."""

    def __init__(self, **options: Any) -> None:
        super().__init__(dtype="float32", **options)
        self.types: set[torch.dtype] = set()
        self.factor = 1.0

    def loss_sum(self, model: Any, batch: Any) -> Any:
        handle = model.head.register_forward_hook(lambda _module, _inputs, logits: self.types.add(logits.dtype))
        try:
            return super().loss_sum(model, batch) * self.factor
        finally:
            handle.remove()


def trainer(precision: Name, **options: Any) -> Trainer:
    return Trainer(Watched(**options), 8, 4, precision=precision)


@pytest.mark.parametrize(
    ("precision", "dtype", "tolerance"),
    [("fp32", torch.float32, 0.0), ("bf16", torch.bfloat16, 0.1), ("fp16", torch.float16, 0.1)],
)
def test_forwards_are_cast_and_weights_are_not(precision: Name, dtype: torch.dtype, tolerance: float) -> None:
    exact, mixed = trainer("fp32"), trainer(precision)
    for indices in GROUPS:
        assert mixed.train(indices) == pytest.approx(exact.train(indices), rel=0.02)
    assert mixed.task.types == {dtype}
    assert all(p.dtype == torch.float32 for p in mixed.state.model.parameters())
    assert largest_difference(mixed.everything(), exact.everything()) <= tolerance
    assert mixed.state.precision.loss_scale == (START if precision == "fp16" else 1)


def test_an_evaluation_is_cast_as_well() -> None:
    mixed = trainer("bf16")
    Evaluation(mixed.state, mixed.task, mixed.session).run(4)
    assert mixed.task.types == {torch.bfloat16}


def test_gradients_are_clipped_without_the_scale() -> None:
    exact, mixed = trainer("fp32"), trainer("fp16")
    norms = [t.step.train(list(GROUPS[0]), 0, 0.01, 1.0).grad_norm for t in (exact, mixed)]
    assert norms[1] == pytest.approx(norms[0], rel=0.02)


def test_an_overflow_skips_the_update_and_is_noticed() -> None:
    mixed = trainer("fp16")
    mixed.train(GROUPS[0])
    before = mixed.everything()
    mixed.task.factor = 1e38
    mixed.train(GROUPS[1])
    after = mixed.everything()
    for name in ("calls", "rng"):  # the forwards did happen
        del before[name], after[name]
    assert_bitwise(after, before)
    assert mixed.state.precision.num_skipped == 1
    assert mixed.state.precision.loss_scale == START / 2
    assert mixed.session.notices == [
        "gradients overflowed in fp16: no update for this step, the 1. so far; loss scale 32768"
    ]
    mixed.task.factor = 1.0
    mixed.train(GROUPS[2])
    assert mixed.state.precision.num_skipped == 1
    assert largest_difference(mixed.everything(), after) > 0


def test_the_scale_is_part_of_a_full_checkpoint(tmp_path: Path) -> None:
    mixed, other = trainer("fp16", dropout=0.2), trainer("fp16", dropout=0.2)
    mixed.task.factor = 1e38
    mixed.train(GROUPS[0])
    mixed.task.factor = 1.0
    mixed.train(GROUPS[1])
    path = save(mixed, tmp_path, "full")
    saved = mixed.state.precision.save()
    assert saved["scaler"]["_growth_tracker"] == 1
    mixed.train(GROUPS[2])
    other.state.load_all(path)
    assert other.state.precision.save() == saved
    other.train(GROUPS[2])
    assert_bitwise(other.everything(), mixed.everything())
    assert other.state.precision.save() == mixed.state.precision.save()


def test_a_run_may_change_its_precision(tmp_path: Path) -> None:
    exact, mixed = trainer("fp32"), trainer("fp16")
    mixed.state.load_all(save(exact, tmp_path, "full"))
    mixed.train(GROUPS[0])
    assert mixed.state.precision.loss_scale == START
    exact.state.load_all(save(mixed, tmp_path, "full"))
    exact.train(GROUPS[0])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_passing_oom_at_any_allocation_leaves_no_trace(native: Native, quick_gc: None, precision: Name) -> None:
    """As in fp32: forward, backward, the unscaling, the norm; the scale's count of good steps included."""
    device, limiter = native(1 << 30)

    def run(fail_in: int) -> tuple[dict[str, Any], dict[str, Any], int]:
        task = ToyTask(dropout=0.3, batch_norm=True, dtype="float32")
        mixed = Trainer(task, group=8, micro_batch=4, device=device, precision=precision)
        limiter.fail_in(fail_in)
        mixed.train(GROUPS[0])
        limiter.fail_in(0)
        mixed.train(GROUPS[2])
        return mixed.everything(), mixed.state.precision.save(), len(mixed.session.ooms)

    calm, calm_scale, num_ooms = run(0)
    assert num_ooms == 0
    points = 0
    while (found := run(points + 1))[2]:
        assert found[2] == 1
        assert found[1] == calm_scale
        assert_bitwise(found[0], calm)
        points += 1
    assert points > 90


def test_an_oom_after_the_unscaling_does_not_unscale_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    calm, shaken = trainer("fp16"), trainer("fp16")
    step = shaken.state.optimizer.step
    failures = iter([True, False, False])

    def fail_once(*_: Any) -> Any:
        if next(failures):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
        return step()

    monkeypatch.setattr(shaken.state.optimizer, "step", fail_once)
    for indices in GROUPS[:2]:
        calm.train(indices)
        shaken.train(indices)
    assert len(shaken.session.ooms) == 1
    assert_bitwise(shaken.everything(), calm.everything())
    assert shaken.state.precision.save() == calm.state.precision.save()


def test_the_scale_takes_no_device_memory(native: Native) -> None:
    device, _ = native(1 << 30)
    before = device.read_memory().allocated_bytes
    precision = Precision("fp16", device)
    assert device.read_memory().allocated_bytes == before
    assert precision.loss_scale == START


def test_without_a_scale_nothing_is_saved_or_scaled() -> None:
    mixed = trainer("bf16")
    loss = torch.ones((), requires_grad=True)
    assert mixed.state.precision.scale(loss) is loss
    assert mixed.state.precision.save() == {"num_skipped": 0, "scaler": {}}
    mixed.train(GROUPS[0])
    done = commit(mixed.state.optimizer, mixed.state.precision, 0.01, 1.0, CpuDevice().host)
    assert done.updated

"""Gradient checkpointing and frozen encoders: the memory they save, and the training that they leave as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from memdash.config_file import parse_config
from memdash.errors import ConfigError, UsageError
from runner.adapt import adapt
from runner.simulated import NativeLimiter, SimulatedDevice
from tests.runner.conftest import Trainer, assert_bitwise
from tests.runner.strategies import BERT, LAYERS, assert_same_checkpoint, run
from tests.runner.toy_task import ToyTask

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # transformers' own imports
CHECKPOINTED = {"gradient_checkpointing": True}


def config(**sections: Any) -> Any:
    return parse_config(sections)


class BertTask(ToyTask):
    """The toy's texts for a BERT with dropout."""

    def build_model(self) -> nn.Module:
        from transformers import BertConfig, BertForMaskedLM

        model: nn.Module = BertForMaskedLM(BertConfig(vocab_size=16, **BERT))
        return model

    def loss_sum(self, model: Any, batch: Any) -> Any:
        logits = model(input_ids=batch["tokens"]).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")


class CheckpointedTask(BertTask):
    """The same, its activations computed again."""

    def build_model(self) -> nn.Module:
        model = super().build_model()
        adapt(model, config(train=CHECKPOINTED))
        return model.train()


# ---- gradient checkpointing ----


def test_checkpointing_lowers_the_peak_and_trains_the_same_bits(tmp_path: Path) -> None:
    """Dropout is on: the activations that are computed again use the same masks."""
    kept = run(tmp_path / "kept")
    again = run(tmp_path / "again", train=CHECKPOINTED)
    activations = kept.peak_bytes - kept.start_bytes
    assert again.peak_bytes - again.start_bytes < 0.6 * activations
    assert again.losses == kept.losses
    assert_same_checkpoint(kept, again)


def test_it_may_be_switched_on_by_a_resume(tmp_path: Path) -> None:
    kept = run(tmp_path / "kept", checkpoint={"every_steps": 2, "keep_last": 9})
    middle = str(tmp_path / "kept" / "checkpoints" / "step-00000002-full")
    resumed = run(tmp_path / "resumed", middle, train=CHECKPOINTED)
    assert resumed.session.notices[0] == "resumed from step-00000002-full at step 2"
    assert_same_checkpoint(kept, resumed)


@pytest.mark.slow
def test_an_oom_while_activations_are_computed_again_leaves_no_trace(
    native: Callable[[int], tuple[SimulatedDevice, NativeLimiter]], quick_gc: None
) -> None:
    device, limiter = native(1 << 30)

    def train(fail_in: int) -> tuple[dict[str, Any], int]:
        trainer = Trainer(CheckpointedTask(), group=4, micro_batch=4, device=device)
        limiter.fail_in(fail_in)
        trainer.train(range(4))
        limiter.fail_in(0)
        trainer.train(range(4, 8))
        return trainer.everything(), len(trainer.session.ooms)

    undisturbed, _ = train(0)
    point, points = 1, 0
    while True:
        recovered, num_ooms = train(point)
        if not num_ooms:
            break
        assert num_ooms == 1
        assert_bitwise(recovered, undisturbed)
        point, points = point + 67, points + 1
    assert points > 10


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_takes_part_of_the_activations_and_trains_nearly_the_same(
    tmp_path: Path, precision: str
) -> None:
    whole, half = run(tmp_path / "fp32"), run(tmp_path / precision, train={"precision": precision})
    assert half.peak_bytes - half.start_bytes < 0.95 * (whole.peak_bytes - whole.start_bytes)
    assert half.losses != whole.losses
    assert half.losses == pytest.approx(whole.losses, rel=0.01)
    assert {tensor.dtype for tensor in half.weights.values()} == {torch.float32}


# ---- frozen ----


def test_a_frozen_encoder_costs_its_weights_and_nothing_else(tmp_path: Path) -> None:
    full = run(tmp_path / "full")
    frozen = run(tmp_path / "frozen", model={"freeze": "encoder"})
    parts = dict(frozen.loop._state.model.named_parameters())
    trained = {name for name, p in parts.items() if p.requires_grad}
    assert trained == {name for name in parts if name.startswith("cls.")}
    trained_bytes = sum(4 * parts[name].numel() for name in trained)
    assert frozen.state_bytes == 2 * trained_bytes + 4 * len(trained)  # two moments, and the count of steps
    assert full.start_bytes - frozen.start_bytes == full.state_bytes - frozen.state_bytes
    assert frozen.peak_bytes - frozen.start_bytes < 0.5 * (full.peak_bytes - full.start_bytes)


def test_each_layer_that_is_trained_costs_its_share(tmp_path: Path) -> None:
    """State, gradients and activations, from none of the layers to all of them."""
    trials = [
        run(tmp_path / str(count), model={"freeze": "encoder", "trained_layers": count}, train={"max_steps": 2})
        for count in range(0, LAYERS + 1, 2)
    ]
    states = [trial.state_bytes for trial in trials]
    steps = [trial.peak_bytes - trial.start_bytes for trial in trials]
    assert states[1] - states[0] == states[2] - states[1] > 0
    assert steps[0] < steps[1] < steps[2]
    assert steps[2] - steps[1] == pytest.approx(steps[1] - steps[0], rel=0.5)


def test_a_frozen_encoders_head_learns(tmp_path: Path) -> None:
    train = {"max_steps": 12, "learning_rate": 1e-2, "schedule": "constant"}
    losses = run(tmp_path / "frozen", model={"freeze": "encoder"}, train=train).losses
    assert sum(losses[-3:]) < sum(losses[:3]) - 0.3


@pytest.mark.parametrize("count", [0, 1, 3])
def test_what_is_frozen_stays_to_the_bit_and_the_rest_moves(tmp_path: Path, count: int) -> None:
    before = run(tmp_path / "before", train={"max_steps": 1, "learning_rate": 1e-12}).weights
    after = run(tmp_path / "after", model={"freeze": "encoder", "trained_layers": count})
    trainable = {name for name, p in after.loop._state.model.named_parameters() if p.requires_grad}
    layers = {int(name.split(".")[3]) for name in trainable if name.startswith("bert.encoder.layer.")}
    assert layers == set(range(LAYERS - count, LAYERS))
    frozen = {name for name, _ in after.loop._state.model.named_parameters()} - trainable
    untouched = run(tmp_path / "untouched", model={"freeze": "encoder"}, train={"max_steps": 1}).weights
    for name in frozen:
        assert torch.allclose(after.weights[name], before[name], atol=1e-9)
        if not name.startswith("bert.encoder.layer."):
            assert torch.equal(after.weights[name], untouched[name]), name
    for name in trainable:
        assert not torch.allclose(after.weights[name], before[name], atol=1e-9), name


def test_a_frozen_run_resumes_to_the_bit_and_an_unfrozen_one_is_refused(tmp_path: Path) -> None:
    frozen = {"freeze": "encoder", "trained_layers": 1}
    whole = run(tmp_path / "whole", model=frozen, checkpoint={"every_steps": 2, "keep_last": 9})
    middle = str(tmp_path / "whole" / "checkpoints" / "step-00000002-full")
    assert_same_checkpoint(whole, run(tmp_path / "resumed", middle, model=frozen))
    with pytest.raises(UsageError, match=r"what is trained has changed \(trained_layers\)"):
        run(tmp_path / "other", middle, model={"freeze": "encoder"})


def test_a_pooler_is_trained_with_the_head() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(BertConfig(vocab_size=16, **BERT))
    adapt(model, config(model={"freeze": "encoder"}))
    trained = {name.partition(".weight")[0] for name, p in model.named_parameters() if p.requires_grad and p.ndim > 1}
    assert trained == {"bert.pooler.dense", "classifier"}


class Own(nn.Module):
    """A model of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.ModuleList([nn.Linear(2, 2) for _ in range(2)]))
        self.head = nn.Linear(2, 2)


def test_ones_own_encoder_is_found_by_its_name() -> None:
    model = Own()
    adapt(model, config(model={"freeze": "encoder", "trained_layers": 1}))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained == ["encoder.0.1.weight", "encoder.0.1.bias", "head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("model", "sections", "words"),
    [
        (nn.Linear(2, 2), {"model": {"freeze": "encoder"}}, "Linear has no encoder"),
        (Own(), {"model": {"freeze": "encoder", "trained_layers": 3}}, "trained_layers = 3: Sequential has 2 layers"),
        (Own(), {"train": CHECKPOINTED}, "Own cannot do it"),
    ],
)
def test_what_a_model_cannot_do_is_told_in_a_line(model: nn.Module, sections: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        adapt(model, config(**sections))


def test_layers_are_trained_only_of_what_is_frozen() -> None:
    with pytest.raises(ConfigError, match="nothing is frozen"):
        config(model={"trained_layers": 2})

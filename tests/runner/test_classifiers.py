"""The small head and the baselines: padding changes nothing, a checkpoint opens again, and all that the runner does works."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from memdash.config import TrainSection
from memdash.errors import CheckpointIncomplete, ConfigError, UsageError
from runner.adapt import adapt
from runner.models.classifier import Classifier, open_classifier
from runner.randomness import seed_everything
from runner.simulated import NativeLimiter, SimulatedDevice
from runner.tasks.opening import open_task
from runner.tasks.protocol import Task, collate
from runner.tasks.scores import class_sums, macro_f1
from runner.tensorfile import write_tensors
from tests.runner.conftest import Trainer, assert_bitwise, largest_difference
from tests.runner.test_planning import estimator, measured
from tests.runner.test_tasks import TINY, learns, spec
from tests.runner.test_training_state import save

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # transformers' own imports
WORDS = {"good": ("fine", "great", "a joy"), "bad": ("poor", "a bore", "dull"), "mixed": ("so so", "half good", "odd")}
RECURRENT = {"embedding_size": 24, "hidden_size": 20, "num_layers": 2}
MODELS: dict[str, dict[str, Any]] = {
    "rnn": {"architecture": "rnn", "config": RECURRENT},
    "one-way lstm": {"architecture": "lstm", "config": {**RECURRENT, "bidirectional": False}},
    "lstm": {"architecture": "lstm", "config": RECURRENT, "head_hidden": 16},
    "transformer": {"architecture": "transformer", "config": {"hidden_size": 32, "num_heads": 2}},
    "bert with a head": {"architecture": "bert", "config": TINY, "head_hidden": 16},
}
SOME = [name for name in MODELS if name != "one-way lstm"]
Native = Callable[[int], tuple[SimulatedDevice, NativeLimiter]]


def rows(count: int = 60) -> str:
    draw = random.Random(5)
    lines = [
        f"{' '.join(draw.choices(words, k=draw.randint(1, 9)))},{label}"
        for label, words in WORDS.items()
        for _ in range(count // 3)
    ]
    draw.shuffle(lines)
    return "text,label\n" + "\n".join(lines) + "\n"


def classify(base: Path, model: dict[str, Any], **sections: dict[str, Any]) -> Task:
    (base / "rows.csv").write_text(rows())
    data = {"source": "rows.csv", "vocab_size": 100, "max_length": 64, **sections.pop("data", {})}
    return open_task(spec(base, task={"name": "text-classification"}, model=model, data=data, **sections))


def without_dropout(model: dict[str, Any]) -> dict[str, Any]:
    zero = (
        {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        if model["architecture"] == "bert"
        else {"dropout": 0.0}
    )
    return {**model, "config": {**model["config"], **zero}, "head_dropout": 0.0}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> dict[str, Any]:
    return MODELS[request.param]


def logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits


def test_padding_changes_nothing(tmp_path: Path, model: dict[str, Any]) -> None:
    task = classify(tmp_path, model)
    seed_everything(0)
    made = task.build_model().double().eval()
    indices = range(12)
    usual, padded = (collate(task, "train", indices, 0, pad_to) for pad_to in (0, 50))
    assert usual["input_ids"].shape[1] < padded["input_ids"].shape[1] == 50
    said = logits(made, usual)
    torch.testing.assert_close(logits(made, padded), said, rtol=1e-10, atol=1e-10)
    for place, index in enumerate(indices):
        alone = logits(made, collate(task, "train", [index], 0, 0))
        torch.testing.assert_close(alone[0], said[place], rtol=1e-10, atol=1e-10)
    unmasked = {**padded, "attention_mask": torch.ones_like(padded["attention_mask"])}
    assert float((logits(made, unmasked) - said).abs().max()) > 1e-6  # it is the mask that does it


@pytest.mark.parametrize("model", SOME, indirect=True)
def test_it_learns(tmp_path: Path, model: dict[str, Any]) -> None:
    first, last = learns(classify(tmp_path, model), steps=40, learning_rate=1e-2)
    assert last < first / 3


@pytest.mark.parametrize("model", SOME, indirect=True)
def test_a_head_starts_with_xaviers_weights(tmp_path: Path, model: dict[str, Any]) -> None:
    head = classify(tmp_path, {**model, "head_hidden": 48}).build_model().classifier_head
    weights = dict(head.named_parameters())
    assert len(weights) == 4
    for name, tensor in weights.items():
        bound = (6 / sum(tensor.shape)) ** 0.5
        largest = float(tensor.abs().max().detach())
        assert largest == 0 if name.endswith("bias") else 0.9 * bound < largest <= bound


@pytest.mark.parametrize("model", SOME, indirect=True)
def test_a_checkpoint_opens_again(tmp_path: Path, model: dict[str, Any]) -> None:
    from transformers import AutoModel, AutoTokenizer

    task = classify(tmp_path, model)
    made = task.build_model().eval()
    folder = tmp_path / "saved"
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as file:
        write_tensors(file.write, made.state_dict(), task_device().host)
    task.save_files(made, folder)
    batch = collate(task, "train", range(6), 0, 0)
    opened = open_classifier(folder)
    assert torch.equal(logits(opened, batch), logits(made, batch))
    assert len(AutoTokenizer.from_pretrained(folder)) > 20
    if model["architecture"] == "bert":
        encoder, report = AutoModel.from_pretrained(folder, output_loading_info=True, add_pooling_layer=False)
        assert not report["missing_keys"]
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        assert isinstance(made, Classifier)
        ours, theirs = made.base_model(**inputs), encoder.eval()(**inputs)
        assert torch.equal(ours.last_hidden_state, theirs.last_hidden_state)
        assert encoder.config.id2label == {0: "bad", 1: "good", 2: "mixed"}
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointIncomplete, match="is no classifier"):
        open_classifier(folder)


def task_device() -> Any:
    from runner.device import CpuDevice

    return CpuDevice()


def test_a_resumed_run_is_bitwise_the_same(tmp_path: Path, model: dict[str, Any]) -> None:
    task = classify(tmp_path, model)
    trainer, other = (Trainer(task, 8, 4) for _ in range(2))  # type: ignore[arg-type]
    trainer.train(range(8))
    path = save(trainer, tmp_path, "full")
    trainer.train(range(8, 16))
    other.state.load_all(path)
    other.train(range(8, 16))
    assert_bitwise(other.everything(), trainer.everything())


@pytest.mark.parametrize("model", SOME, indirect=True)
def test_a_step_survives_running_out_of_memory(tmp_path: Path, model: dict[str, Any], native: Native) -> None:
    device, limiter = native(1 << 30)
    train = TrainSection(learning_rate=0.01, optimizer="sgd")  # Adam would make much of a rounding error
    with device.host():
        task = classify(tmp_path, without_dropout(model))

    def trained(micro_batch: int, room: int = 0) -> tuple[Trainer, int]:
        """A step of 8 examples, and its peak."""
        gc.collect()  # what other tests have left would be freed in mid-recovery, and make room
        before = device.read_memory().allocated_bytes or 0
        trainer = Trainer(task, 8, micro_batch, device=device, train=train)  # type: ignore[arg-type]
        if room:
            limiter.start(before + room)
        trainer.train(range(8))
        return trainer, (device.read_memory().peak_allocated_bytes or 0) - before

    (calm, eight), (_, four) = trained(8), trained(4)
    assert four < eight - 1000
    shaken, _ = trained(8, room=eight - 1000)
    assert shaken.session.ooms[0]["where"] == "forward/backward"
    assert shaken.step.split.micro_batch == 4
    assert largest_difference(calm.everything(), shaken.everything()) < 1e-5


def test_activations_are_computed_again_to_the_bit(tmp_path: Path, model: dict[str, Any], native: Native) -> None:
    device, _ = native(1 << 30)
    gradients, peaks = [], []
    layers = {"num_hidden_layers": 4} if model["architecture"] == "bert" else {"num_layers": 4}
    for again in (False, True):
        task = classify(tmp_path, {**model, "config": {**model["config"], **layers}})
        seed_everything(0)
        with device.host():
            made = task.build_model().train()
            batch = collate(task, "train", range(16), 0, 48)
        adapt(made, spec(tmp_path, train={"gradient_checkpointing": again}).config)
        seed_everything(1)
        device.read_memory()
        before = device.read_memory().allocated_bytes or 0
        task.loss_sum(made, batch).backward()  # type: ignore[no-untyped-call]
        peaks.append((device.read_memory().peak_allocated_bytes or 0) - before)
        gradients.append({name: p.grad for name, p in made.named_parameters() if p.grad is not None})
    assert_bitwise(*gradients)
    assert peaks[1] < 0.9 * peaks[0]


@pytest.mark.parametrize("model", SOME, indirect=True)
def test_only_the_head_and_the_last_layers_are_trained(tmp_path: Path, model: dict[str, Any]) -> None:
    for trained_layers in (0, 1):
        made = classify(tmp_path, model).build_model()
        adapt(made, spec(tmp_path, model={"freeze": "encoder", "trained_layers": trained_layers}).config)
        assert isinstance(made, Classifier)
        heads = {name for name, p in made.named_parameters() if p.requires_grad and "classifier_head" in name}
        trained = {name for name, p in made.named_parameters() if p.requires_grad} - heads
        assert len(heads) == (4 if "head_hidden" in model else 2)
        assert bool(trained) == bool(trained_layers)
        assert all("layers.1." in name or "layer.0." in name for name in trained)  # the last one of two, of one


@pytest.mark.usefixtures("quick_gc")
@pytest.mark.parametrize("name", ["rnn", "lstm", "transformer", "bert with a head"])
def test_a_plan_says_what_is_measured(tmp_path: Path, simulated: Callable[[int], SimulatedDevice], name: str) -> None:
    texts = [f"{'fine dull ' * size},{label}\n" for size in range(1, 6) for label in ("good", "bad")]
    (tmp_path / "pairs.csv").write_text("text,label\n" + "".join(texts))  # two of each length, in this order
    data = {"source": "pairs.csv", "validation_fraction": 0.0}
    one_layer = {} if name == "bert with a head" else {"num_layers": 1}
    model = {**MODELS[name], "config": {**MODELS[name]["config"], **one_layer}}
    task, train = classify(tmp_path, model, data=data), TrainSection()
    estimate, _ = estimator(task, train, group=4)
    peak = measured(simulated(1 << 30), task, train)
    assert estimate.why_not_scaled == ""
    for batch, length, num_slices in [(2, 12, 2), (4, 12, 1), (4, 8, 2)]:
        predicted = estimate.step(batch, length, num_slices).bytes
        assert predicted == pytest.approx(peak(batch, length, num_slices), rel=0.01)


MISTAKES = [
    ({"architecture": "lstm", "config": {"hidden_sise": 3}}, "model.config.hidden_sise: `lstm` has no such field"),
    ({"architecture": "rnn", "config": {"num_heads": 3}}, "model.config.num_heads: `rnn` has no such field"),
    ({"architecture": "rnn", "config": {"hidden_size": 0}}, "model.config.hidden_size = 0: expected `int` >= 1"),
    ({"architecture": "lstm", "config": {"dropout": 1.0}}, "model.config.dropout = 1.0: expected `float` < 1"),
    (
        {"architecture": "lstm", "config": {"bidirectional": "yes"}},
        "model.config.bidirectional = 'yes': expected `bool`, got `str`",
    ),
    ({"architecture": "transformer", "config": {"num_heads": 3}}, "num_heads = 3: does not divide hidden_size = 128"),
    ({"architecture": "transformer", "config": {"max_positions": 9}}, "data.max_length = 64: the model has only 9"),
    ({"architecture": "t5", "config": {"d_model": 16}, "head_hidden": 3}, "does not give one vector for each token"),
]


@pytest.mark.parametrize(("section", "words"), MISTAKES, ids=[words[:40] for _, words in MISTAKES])
def test_a_mistake_is_told_in_a_line(tmp_path: Path, section: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as error:
        classify(tmp_path, section).build_model()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


CLASSIFICATION, MODELLING = {"name": "text-classification"}, {"name": "language-modelling"}
REFUSED = [
    (MODELLING, {"architecture": "lstm"}, "model.architecture"),
    (MODELLING, {"head_hidden": 8}, "model.head_hidden"),
    (CLASSIFICATION, {"head_hidden": -1}, "model.head_hidden"),
    (CLASSIFICATION, {"head_hidden": 8, "head_dropout": 1.0}, "model.head_dropout"),
    (CLASSIFICATION, {"head_dropout": 0.3}, "model.head_dropout"),
]


@pytest.mark.parametrize(("task", "model", "key"), REFUSED, ids=[f"{key} {model}" for _, model, key in REFUSED])
def test_keys_that_mean_nothing_are_refused(tmp_path: Path, task: Any, model: Any, key: str) -> None:
    (tmp_path / "rows.csv").write_text(rows())
    with pytest.raises(ConfigError, match=key):
        spec(tmp_path, task=task, model=model, data={"source": "rows.csv"})


@pytest.mark.parametrize("seed", range(20))
def test_macro_f1_is_the_mean_over_classes(seed: int) -> None:
    draw = random.Random(seed)
    classes = draw.randint(1, 5)
    guesses, labels = ([draw.randrange(classes) for _ in range(draw.randint(1, 30))] for _ in range(2))
    count = min(len(guesses), len(labels))
    guesses, labels = guesses[:count], labels[:count]
    scores = []
    for one in {*guesses, *labels}:
        right = sum(guess == label == one for guess, label in zip(guesses, labels, strict=True))
        precision = right / max(1, guesses.count(one))
        recall = right / max(1, labels.count(one))
        scores.append(2 * precision * recall / (precision + recall) if right else 0.0)
    sums: dict[str, float] = {}
    for start in range(0, count, 7):  # batch by batch
        for name, value in class_sums(
            torch.tensor(guesses[start : start + 7]), torch.tensor(labels[start : start + 7])
        ).items():
            sums[name] = sums.get(name, 0) + value
    assert macro_f1(sums) == pytest.approx(sum(scores) / len(scores))


def test_macro_f1_is_a_metric_of_an_evaluation(tmp_path: Path) -> None:
    from runner.evaluation import Evaluation

    task = classify(tmp_path, MODELS["lstm"], data={"validation_fraction": 0.5})
    trainer = Trainer(task, 8, 4)  # type: ignore[arg-type]
    evaluation = Evaluation(trainer.state, task, trainer.session)
    assert evaluation.run(4)
    assert set(evaluation.metrics) == {"loss", "accuracy", "macro_f1"}
    # Untrained, nearly all texts are taken for one class: that one class is right is no merit of the others.
    assert evaluation.metrics["macro_f1"] < evaluation.metrics["accuracy"]

"""Examples of several items: what is read, made and trained, and that each way to lay the items out takes what it is said to take."""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memdash.config_file import parse_config
from memdash.errors import ConfigError, UsageError
from runner.adapt import adapt
from runner.device import CpuDevice
from runner.groups import Groups
from runner.lookahead import Lookahead
from runner.optimizer import Plan
from runner.planning.configuration import Configuration
from runner.planning.padding import ways
from runner.planning.plan import Planner
from runner.planning.room import Room
from runner.planning.statistics import LengthStatistics
from runner.slicing import Slicing, make
from runner.spec import Spec
from runner.tasks.aspects_model import PASSES
from runner.tasks.made_aspects import CATEGORIES, EXAMPLES, MEAN_WORDS, OUTLIER_AT, SENTIMENTS, lines, make_aspects
from runner.tasks.opening import open_task
from runner.tensorfile import write_tensors
from runner.training_state import Progress
from tests.runner.strategies import Trial, assert_same_checkpoint, run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # transformers' own imports
COUNTS = [1, 2, 1, 1, 3, 1, 2, 1, 1, 12, 1, 2, 1, 1, 2, 1]
OUTLIER = COUNTS.index(12)
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
STILL = {**TINY, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""Without dropout, whose masks follow the shape of a slice."""
WORDS = "pizza soup staff music wine bread garden menu waiter steak bill room".split()
OPINIONS = "great bland rude loud sour fresh lovely short slow tender high small".split()


def review(count: int) -> dict[str, Any]:
    """A text of so many items."""
    text = " and ".join(f"{WORDS[n]} was {OPINIONS[n]}" for n in range(count))
    items = [
        {"Aspect": WORDS[n], "Opinion": OPINIONS[n], "Category": f"C{n % 3}", "VA": f"{1 + n % 8}.50#5.00"}
        for n in range(count)
    ]
    return {"ID": str(count), "Text": text, "Quadruplet": items}


def written(folder: Path) -> dict[str, Any]:
    """What a config says to read 15 texts of 1 to 3 items and one of 12."""
    (folder / "reviews.jsonl").write_text("\n".join(json.dumps(review(count)) for count in COUNTS))
    return {"source": "reviews.jsonl", "max_length": 64, "vocab_size": 200, "validation_fraction": 0.0}


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    """The same, for one test."""
    return written(tmp_path)


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trial]:
    """The same run with each way to lay the items out."""
    folder = tmp_path_factory.mktemp("trials")
    keys = written(folder)
    return {p: trained(folder / p, keys | {"padding": p}) for p in ("global", "batch", "flat", "sequential")}


def opened(folder: Path, data: dict[str, Any], model: dict[str, Any] = STILL, **sections: Any) -> Any:
    table = {"task": {"name": "aspects"}, "model": {"config": model}, "data": data, **sections}
    return open_task(Spec(parse_config(table, base=folder), folder, folder))


def trained(run_dir: Path, data: dict[str, Any], resume: str = "", **sections: Any) -> Trial:
    """Two epochs of two steps."""
    sections["train"] = {"global_batch": 8, "max_steps": 4, **sections.get("train", {})}
    model = {"config": sections.pop("model", STILL)}
    return run(run_dir, resume, task={"name": "aspects"}, model=model, data=data, **sections)


# ---- the made-up reviews ----


def test_the_made_up_reviews_have_the_statistics_of_the_real_ones() -> None:
    made = make_aspects()
    counts = [len(example["Quadruplet"]) for example in made]
    assert (len(made), sum(counts)) == (2284, 3661)
    assert dict(Counter(counts)) == EXAMPLES
    assert counts[OUTLIER_AT] == 26
    assert dict(Counter(example["ID"].partition("-")[0] for example in made)) == {
        "train": 1530,
        "dev": 171,
        "test": 583,
    }
    quadruples = [quadruple for example in made for quadruple in example["Quadruplet"]]
    assert dict(Counter(quadruple["Category"] for quadruple in quadruples)) == CATEGORIES
    valences = [float(quadruple["VA"].partition("#")[0]) for quadruple in quadruples]
    signs = Counter("positive" if v > 5.5 else "negative" if v < 4.5 else "neutral" for v in valences)
    assert dict(signs) == SENTIMENTS
    words = [len(example["Text"].split()) for example in made]
    assert (statistics.mean(words), statistics.pstdev(words)) == pytest.approx((15.1, 9.8), abs=0.2)
    assert (statistics.median(words), max(words), words[OUTLIER_AT]) == (13, 84, 78)
    for count, mean in MEAN_WORDS.items():
        assert statistics.mean(w for w, c in zip(words, counts, strict=True) if c == count) == pytest.approx(
            mean, abs=0.1
        )


def test_the_made_up_reviews_are_the_same_everywhere(tmp_path: Path, data: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "runner.tasks.made_aspects"]
    written = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50).stdout
    assert written.splitlines() == list(lines())
    assert hashlib.sha256(written.encode()).hexdigest() == SHA256
    (tmp_path / "aspects.jsonl").write_text(written)
    sizes = {"max_examples": 60, "max_length": 128, "vocab_size": 2000}
    file, built_in = (opened(tmp_path, data | sizes | {"source": name}) for name in ("aspects.jsonl", "aspects"))
    ours, theirs = (task.collate("train", range(60), 0) for task in (file, built_in))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert file.train_lines == built_in.train_lines == list(range(1, 61))


SHA256 = "179e0e773322bd409943bb72df4e8f80daaebb7bc3864aca8770676dca116fee"


# ---- what is read ----

GOOD = review(1)
QUADRUPLE = GOOD["Quadruplet"][0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ({"Text": "x"}, "no key 'Quadruplet'; there are: Text"),
        ({**GOOD, "Split": 1}, "unknown key 'Split'; there are: ID, Text, Quadruplet"),
        ({**GOOD, "Text": ""}, "Text = '': expected a text that is not empty"),
        ({**GOOD, "Quadruplet": []}, "Quadruplet = '[]': expected a list of at least one quadruple"),
        ({**GOOD, "Quadruplet": ["x"]}, "Quadruplet = 'x': expected objects in the list"),
        ({**QUADRUPLE, "Polarity": "x"}, "unknown key 'Polarity'; there are: Aspect, Opinion, Category, VA"),
        ({**QUADRUPLE, "Aspect": "soup"}, "Aspect = 'soup': is not in the text 'pizza was great'"),
        ({**QUADRUPLE, "Opinion": 3}, "Opinion = '3': expected a text that is not empty"),
        ({**QUADRUPLE, "VA": "7.5"}, "VA = '7.5': expected valence#arousal, such as 7.50#6.25"),
        ({**QUADRUPLE, "VA": "a#b"}, "VA = 'a#b': expected valence#arousal"),
        ({**QUADRUPLE, "VA": "9.5#2"}, "VA = '9.5#2': both must be from 1 to 9"),
        ({**QUADRUPLE, "VA": "nan#2"}, "VA = 'nan#2': both must be from 1 to 9"),
        ({**GOOD, "Text": "pizza was great " * 30}, "92 tokens, more than data.max_length = 64"),
        ({**GOOD, "Quadruplet": [QUADRUPLE] * 65}, "65 quadruples, more than 64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_in_the_file_is_told_with_its_line(
    tmp_path: Path, data: dict[str, Any], line: Any, words: str
) -> None:
    if isinstance(line, dict) and "Aspect" in line:
        line = {**GOOD, "Quadruplet": [line]}
    text = line if isinstance(line, str) else json.dumps(line)
    (tmp_path / "reviews.jsonl").write_text(f"{json.dumps(GOOD)}\n\n{text}\n")
    with pytest.raises(UsageError) as error:
        opened(tmp_path, data)
    assert f"reviews.jsonl:3: {words}" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"data": {"source": "python-docs"}}, "has no quadruples"),
        ({"data": {"source": "reviews.csv"}}, "quadruples are read from JSON lines"),
        ({"data": {"source": "empty.jsonl"}}, "empty.jsonl: no rows"),
        ({"data": {"source": "empty.jsonl", "where": {"Text": "x"}}}, "quadruples have no columns to choose by"),
    ],
    ids=str,
)
def test_a_source_without_quadruples_is_told(tmp_path: Path, table: dict[str, Any], words: str) -> None:
    (tmp_path / "reviews.csv").write_text("text\nx\n")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises((UsageError, ConfigError), match=words):
        opened(tmp_path, **table)


def test_spans_are_the_tokens_of_whole_words_and_what_is_not_said_is_none(tmp_path: Path, data: dict[str, Any]) -> None:
    items = [
        {**QUADRUPLE, "Aspect": "wine list", "Opinion": "great"},
        {**QUADRUPLE, "Aspect": "NULL", "Opinion": "art"},
    ]
    text = "Greatly liked: a great wine list, smart art"
    (tmp_path / "reviews.jsonl").write_text(
        "\n".join(json.dumps({"Text": text.lower() if n else text, "Quadruplet": items}) for n in range(2))
    )
    task = opened(tmp_path, data)
    batch = task.collate("train", [0], 0)
    tokens = [
        task._tokenizer.decode(batch["input_ids"][row, first : last + 1])
        for row in range(2)
        for first, last in (batch["aspect"][row], batch["opinion"][row])
    ]
    assert tokens == ["wine list", "great", "[CLS]", "art"]
    assert batch["opinion"][1, 0] == batch["attention_mask"][1].sum() - 2  # not the one in `smart`


# ---- six passes, and what padding adds to them ----


def gradients(task: Any, model: Any, batches: Iterator[Any]) -> dict[str, torch.Tensor]:
    model.zero_grad()
    for batch in batches:
        task.loss_sum(model, batch).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_padding_adds_nothing_to_loss_and_gradient(tmp_path: Path, data: dict[str, Any]) -> None:
    task = opened(tmp_path, data)
    model = task.build_model()
    group = [OUTLIER, 0, 1, 4]
    padded = gradients(task, model, iter([task.collate("train", group, 0)]))
    assert task.count_items(task.collate("train", group, 0, 20)) == 12 + 1 + 2 + 3
    assert len(task.collate("train", group, 0, 20)["is_item"]) == 80
    others = {"further": iter([task.collate("train", group, 0, 20)])}
    for padding in ("flat", "sequential"):
        requests = Slicing(task.train_lengths, padding).requests(group, 0)
        others[padding] = iter([make(task, "train", request) for request in requests])
    assert all(gradient.any() for name, gradient in padded.items() if name.endswith("weight"))  # each has a part in it
    for batches in others.values():
        found = gradients(task, model, batches)
        for name, gradient in padded.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-4)


def test_six_passes_are_reported_and_learned(tmp_path: Path, data: dict[str, Any]) -> None:
    trial = trained(
        tmp_path / "run",
        data | {"padding": "flat", "validation_fraction": 0.2},
        train={"max_steps": 60, "learning_rate": 1e-2},
    )
    metrics = trial.loop._evaluation.metrics
    losses = {name: value for name, value in metrics.items() if name.endswith("_loss")}
    assert list(losses) == [f"{question} loss".replace(" ", "_") for question in PASSES]
    assert metrics["loss"] == pytest.approx(sum(losses.values()))
    assert {"span_f1", "category_accuracy", "forward_aspect_exact", "backward_aspect_exact"} < metrics.keys()
    assert trial.losses[-1] < 0.6 * trial.losses[0]
    assert 0.3 < metrics["span_f1"] <= 1


def test_a_light_checkpoint_opens_as_the_encoder(tmp_path: Path, data: dict[str, Any]) -> None:
    from transformers import AutoModel, AutoTokenizer

    task = opened(tmp_path, data)
    model = task.build_model().eval()
    folder = tmp_path / "saved"
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as file:
        write_tensors(file.write, model.state_dict(), CpuDevice().host)
    task.save_files(model, folder)
    loaded, report = AutoModel.from_pretrained(folder, output_loading_info=True, add_pooling_layer=False)
    assert not report["missing_keys"]
    ours = dict(model.base_model.named_parameters())
    assert all(torch.equal(parameter, ours[name]) for name, parameter in loaded.named_parameters())
    assert len(AutoTokenizer.from_pretrained(folder)) == len(task._tokenizer)


@pytest.mark.parametrize("keys", [{"gradient_checkpointing": True}, {"freeze": "encoder"}], ids=str)
def test_the_model_can_be_checkpointed_and_frozen(tmp_path: Path, data: dict[str, Any], keys: dict[str, Any]) -> None:
    task = opened(tmp_path, data)
    batch = task.collate("train", [0, 4], 0)
    plain, saving = task.build_model(), task.build_model()
    saving.load_state_dict(plain.state_dict())
    section = "model" if "freeze" in keys else "train"
    adapt(saving, parse_config({section: keys}))
    losses = [task.loss_sum(model.train(), batch) for model in (plain, saving)]
    for loss in losses:
        loss.backward()
    assert torch.equal(losses[0], losses[1])
    trained_ones = {name for name, parameter in saving.named_parameters() if parameter.grad is not None}
    assert any(name.startswith("bert.") for name in trained_ones) == (section == "train")
    assert {"questions.weight", "spans.0.weight", "category.bias"} < trained_ones


# ---- what each policy takes ----


def test_each_padding_takes_what_it_says(trials: dict[str, Trial]) -> None:
    losses = trials["batch"].losses
    assert losses[-1] < losses[0]
    items = [report["num_items"] for report in trials["batch"].session.reports]
    for padding, trial in trials.items():
        assert trial.losses == pytest.approx(losses, rel=1e-4), padding
        assert [report["num_items"] for report in trial.session.reports] == items
    peaks = {padding: trial.session.peaks for padding, trial in trials.items()}
    worst = {padding: max(values) for padding, values in peaks.items()}
    assert [peak > 2 * min(peaks["batch"]) for peak in peaks["batch"]].count(
        True
    ) == 2  # the outlier's steps, once an epoch
    assert worst["global"] == pytest.approx(worst["batch"], rel=0.01)
    assert min(peaks["global"]) > 3 * min(peaks["batch"])
    assert worst["flat"] < 0.4 * worst["batch"]
    assert worst["sequential"] < 0.3 * worst["flat"]
    assert max(peaks["sequential"]) == pytest.approx(min(peaks["sequential"]), rel=0.01)  # however many items there are


@pytest.mark.slow
def test_the_plan_says_what_each_padding_then_takes(
    tmp_path: Path, data: dict[str, Any], trials: dict[str, Trial]
) -> None:
    task = opened(tmp_path, data)
    sections = {"data": data | {"padding": "flat"}, "train": {"global_batch": 8, "max_steps": 4}}
    config = parse_config({"task": {"name": "aspects"}, **sections}, base=tmp_path)
    plan = Planner(task, task.build_model(), config, Room(1 << 34)).plan()
    assert plan["data"]["passes"] == list(PASSES)
    (row,) = (row for row in plan["rows"] if row["micro_batch"] == 8)
    found = {way["name"]: way["worst_bytes"] for way in plan["data"]["ways"]}
    assert row["worst_bytes"] == row["peak_bytes"]["longest"] == found["flat"]
    for padding, trial in trials.items():
        near = (
            0.03 if padding == "sequential" else 0.005
        )  # one row alone needs a little less than the scale of several says
        assert found[padding] == pytest.approx(max(trial.session.peaks), rel=near), padding


def test_an_outlier_that_does_not_fit_padded_is_trained_all_the_same(tmp_path: Path, data: dict[str, Any]) -> None:
    large = trained(tmp_path / "large", data)
    capacity = (max(large.session.peaks) + min(large.session.peaks)) // 2
    small = trained(tmp_path / "small", data, device={"capacity": f"{capacity}B"})
    assert small.losses == pytest.approx(large.losses, rel=1e-4)
    assert small.loop._step.num_recoveries > 0
    assert small.session.reports[-1]["examples_seen"] == 2 * len(COUNTS)
    flat = trained(tmp_path / "flat", data | {"padding": "flat"}, device={"capacity": f"{capacity}B"})
    assert flat.loop._step.num_recoveries == 0
    assert flat.losses == pytest.approx(large.losses, rel=1e-4)


@pytest.mark.parametrize("padding", ["flat", "sequential"])
def test_each_resumes_to_the_bit_and_takes_every_item_once(tmp_path: Path, data: dict[str, Any], padding: str) -> None:
    keys = data | {"padding": padding}
    whole = trained(tmp_path / "whole", keys, model=TINY, checkpoint={"every_steps": 1, "keep_last": 9})
    middle = str(tmp_path / "whole" / "checkpoints" / "step-00000001-full")
    assert_same_checkpoint(whole, trained(tmp_path / "resumed", keys, middle, model=TINY))
    items = [report["num_items"] for report in whole.session.reports]
    assert items[0] + items[1] == items[2] + items[3] == sum(COUNTS)


# ---- what forecasts are told ----


def test_flat_tells_the_items_of_the_largest_slice() -> None:
    lengths = [1, 9, 2, 1, 3, 1]
    flat, alone = Slicing(lengths, "flat"), Slicing(lengths, "flat", 8)
    assert flat.tells(range(6), 3) == (12, 1)
    assert flat.tells(range(6), 1) == (9, 1)
    assert alone.tells(range(6), 3) == (9, 1)
    assert Slicing(lengths, "sequential").tells(range(6), 3)[0] == 1
    assert Slicing(lengths).tells(range(6), 3) == (9, 1)
    assert flat.loads([0, 1]) == [(10, 1)]
    assert Slicing(lengths, "sequential").loads([0, 2]) == [(1, 1)] * 3
    assert Slicing(lengths).loads([0, 1], 12) == [(2, 12)]


def test_the_look_ahead_says_what_the_steps_then_report(tmp_path: Path, data: dict[str, Any]) -> None:
    trial = trained(tmp_path / "run", data | {"padding": "flat"}, train={"micro_batch": 4})
    loop, said = trial.loop, []
    ahead = Lookahead(
        type("Listening", (), {"coming": lambda self, longest, examples: said.append((longest, examples))})(),
        Groups(16, 8, 0),
        Plan(16, 8, loop._config.train),
        loop._step,
        flat=True,
    )
    ahead.tell(Progress())
    ahead.tell(Progress())
    ((longest, examples),) = said
    assert longest == [report["longest"] for report in trial.session.reports]
    assert OUTLIER in examples[:2]
    loop._step.ask(8)
    ahead.tell(Progress(step=1, position=8))  # slices are other ones now
    assert max(said[1][0]) > max(longest)


def test_each_way_is_looked_at_in_the_slices_that_it_would_make() -> None:
    """With memory that is nothing but rows: batch times length."""
    lengths = [1] * 63 + [20]
    estimator: Any = SimpleNamespace(held=lambda phase, batch, length: 0 if phase == "commit" else batch * length)
    config = parse_config({"train": {"global_batch": 8, "micro_batch": 8}})
    base = Configuration(config, Slicing(lengths), Room(100), estimator)
    statistics = LengthStatistics.of(lengths)
    found = {way["name"]: way for way in ways(base, statistics, set())}
    assert {name: way["worst_bytes"] for name, way in found.items()} == {
        "batch": 160,
        "group": 160,
        "global": 160,
        "bucket": 160,
        "flat": 27,
        "sequential": 1,
        "isolate": 20,
        "drop": 8,
        "truncate": 8,
    }
    assert found["flat"]["blow_up"] == found["sequential"]["blow_up"] == 1
    assert found["global"]["blow_up"] == pytest.approx(64 * 20 / 83)
    assert found["truncate"]["keys"] == {"data.outlier_length": 1, "data.outliers": "truncate"}
    over = base.outlook(8).first_over
    assert over is not None
    assert (over.example, over.length, over.count) == (63, 20, 8)
    flat = Configuration(config, replace(base.slicing, padding="flat"), Room(20), estimator)
    over = flat.outlook(8).first_over
    assert over is not None
    assert (over.example, over.length, over.count) == (63, 20, 27)
    without = [way["name"] for way in ways(base, statistics, {"flat", "sequential", "truncate"})]
    assert "flat" not in without
    assert "truncate" in without


# ---- outliers that are cut ----


def test_a_truncated_outlier_takes_less_and_what_is_lost_is_told(tmp_path: Path, data: dict[str, Any]) -> None:
    cut = {"outlier_length": 3, "outliers": "truncate"}
    kept, lean = (
        trained(tmp_path / "kept", data),
        trained(tmp_path / "lean", data | cut, checkpoint={"every_steps": 1, "keep_last": 9}),
    )
    assert lean.peak_bytes < 0.5 * kept.peak_bytes
    (told,) = [text for text in lean.session.notices if "outlier" in text]
    assert told == (
        "data.outlier_length = 3: 1 of 16 training examples are longer, the longest is example 9 of length 12; "
        "each is cut to 3, and 9 of 33 (27.3%) of all length with that"
    )
    items = [report["num_items"] for report in lean.session.reports]
    assert items[0] + items[1] == sum(COUNTS) - 9
    assert lean.session.reports[-1]["examples_seen"] == 32
    middle = str(tmp_path / "lean" / "checkpoints" / "step-00000002-full")
    assert_same_checkpoint(lean, trained(tmp_path / "resumed", data | cut, middle))
    with pytest.raises(UsageError, match="because lengths_sha256 differ"):
        trained(tmp_path / "other", data, middle)


def test_the_first_items_are_kept_in_a_subset_too(tmp_path: Path, data: dict[str, Any]) -> None:
    cut = data | {"outlier_length": 2, "outliers": "truncate"}
    whole, part = opened(tmp_path, data), opened(tmp_path, cut | {"subset_ratio": 0.75, "padding": "flat"})
    assert (len(part.train_lengths), max(part.train_lengths)) == (12, 2)
    for number, place in enumerate(part._kept["train"]):
        count = part.train_lengths[number]
        assert count == min(2, COUNTS[place])
        assert part.train_lines[number] == place + 1
        items = [(number, n) for n in range(count)]
        ours = part.collate_items("train", items, 0)
        theirs = whole.collate_items("train", [(place, n) for _, n in items], 0)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("name", ["language-modelling", "text-classification"])
def test_texts_are_cut_at_their_end(tmp_path: Path, name: str) -> None:
    rows = [{"text": "good bad " * (3 + 9 * (number == 4)), "label": str(number % 2)} for number in range(10)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    keys = {"source": "rows.jsonl", "max_length": 64, "vocab_size": 100, "validation_fraction": 0.0}
    cut = {"outlier_length": 12, "outliers": "truncate"}
    whole, lean = (opened(tmp_path, keys | more, task={"name": name}) for more in ({}, cut))
    assert (max(whole.train_lengths), max(lean.train_lengths)) == (26, 12)
    assert lean.notes[-1].endswith("each is cut to 12, and 14 of 98 (14.3%) of all length with that")
    if name == "text-classification":
        ours, theirs = (task.collate("train", [4], 0)["input_ids"][0].tolist() for task in (lean, whole))
        assert ours == [*theirs[:11], theirs[-1]]
    with pytest.raises(UsageError, match="data.outlier_length = 2: leaves no room beside 2 special tokens"):
        opened(tmp_path, keys | cut | {"outlier_length": 2}, task={"name": name})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"outliers": "truncate", "outlier_length": 3}, "the task toy cannot cut its examples"),
        ({"padding": "flat"}, "an example of the task toy is one item, not several"),
        ({"padding": "sequential", "subset_ratio": 0.5}, "an example of the task toy is one item, not several"),
    ],
    ids=str,
)
def test_a_task_that_cannot_is_named(toy_run: Any, keys: dict[str, Any], words: str) -> None:
    from tests.runner.test_loop import Meddling, prepared

    with pytest.raises(UsageError, match=words):
        prepared(toy_run(data=keys), Meddling())

"""Which examples a run uses, how groups are cut and padded: what it takes, and that it trains what it is said to train."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memdash.config_file import parse_config
from memdash.errors import ConfigError, UsageError
from runner.groups import Groups
from runner.slicing import Slicing
from runner.spec import Spec
from runner.tasks.opening import open_task
from tests.runner.strategies import BERT, Trial, assert_same_checkpoint, run
from tests.runner.test_loop import Meddling, prepared
from tests.runner.test_tasks import TINY

Make = Callable[..., Path]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # transformers' own imports
LENGTHS = [3, 9, 4, 30, 5, 8, 31, 2]
STILL = {"config": {**BERT, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}}
"""Without dropout, whose masks follow the shape of a slice."""


@pytest.fixture
def outlier(tmp_path: Path) -> dict[str, Any]:
    """31 texts of 3 to 8 words and one of 60: what a config says to read them."""
    words = "the run that was out of memory went on in smaller slices".split()
    counts = [3 + number % 6 for number in range(32)]
    counts[13] = 60
    lines = [
        json.dumps({"text": " ".join(words[(n + i) % len(words)] for i in range(c))}) for n, c in enumerate(counts)
    ]
    (tmp_path / "outlier.jsonl").write_text("\n".join(lines))
    return {"source": "outlier.jsonl", "max_length": 64, "vocab_size": 200, "validation_fraction": 0.0}


# ---- pure ----


@pytest.mark.parametrize(
    ("slicing", "cuts", "pad_to"),
    [
        (Slicing(LENGTHS), [[0, 1, 2], [3, 4, 5]], 0),
        (Slicing(LENGTHS, "bucket"), [[0, 1, 2], [3, 4, 5]], 0),
        (Slicing(LENGTHS, "group"), [[0, 1, 2], [3, 4, 5]], 30),
        (Slicing(LENGTHS, "global"), [[0, 1, 2], [3, 4, 5]], 31),
        (Slicing(LENGTHS, "batch", 10), [[0, 1, 2], [4, 5], [3]], 0),
        (Slicing(LENGTHS, "group", 10), [[0, 1, 2], [4, 5], [3]], 9),
        (Slicing(LENGTHS, "global", 30), [[0, 1, 2], [3, 4, 5]], 30),
        (Slicing(LENGTHS, "group", 1), [[0], [1], [2], [3], [4], [5]], 0),
    ],
)
def test_a_group_is_cut_and_padded_as_the_config_says(slicing: Slicing, cuts: list[list[int]], pad_to: int) -> None:
    assert slicing.cut(range(6), 3) == cuts
    assert slicing.pad_to(range(6)) == pad_to


def test_forecasts_are_told_a_length_that_shares_a_slice() -> None:
    assert Slicing(LENGTHS).told_lengths() == LENGTHS
    assert Slicing(LENGTHS, alone_above=10).told_lengths() == [3, 9, 4, 10, 5, 8, 10, 2]


def padded(order: list[int], lengths: list[int], size: int) -> int:
    """Tokens of an epoch, each group padded to its longest."""
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    return sum(len(group) * max(lengths[index] for index in group) for group in groups)


def test_buckets_take_every_example_once_an_epoch_and_pad_less() -> None:
    chance = random.Random(3)
    for _ in range(30):
        count, size = chance.randint(1, 900), chance.randint(1, 9)
        lengths = [chance.randint(1, 200) for _ in range(count)]
        groups = Groups(count, size, 7, lengths)
        order = groups.order(2)
        assert sorted(order) == list(range(count))
        assert order == Groups(count, size, 7, lengths).order(2)
        taken: list[int] = []
        while len(taken) < count:  # as a run that is resumed at every step takes them
            taken += Groups(count, size, 7, lengths).at(2, len(taken))
        assert taken == order
        if count >= 200 and size >= 4:
            assert groups.order(3) != order != Groups(count, size, 8, lengths).order(2)
            plain = padded(Groups(count, size, 7).order(2), lengths, size)
            assert padded(order, lengths, size) < 0.85 * plain
            first = [max(lengths[index] for index in groups.at(2, place)) for place in range(0, 20 * size, size)]
            assert first != sorted(first)  # the groups themselves come in no order of length


# ---- runs ----


def test_an_outlier_alone_takes_less_and_trains_the_same(tmp_path: Path, outlier: dict[str, Any]) -> None:
    kept = run(tmp_path / "kept", model=STILL, data=outlier)
    alone = run(tmp_path / "alone", model=STILL, data={**outlier, "outlier_length": 16})
    assert alone.losses == pytest.approx(kept.losses, rel=1e-4)
    assert alone.peak_bytes - alone.start_bytes < 0.55 * (kept.peak_bytes - kept.start_bytes)
    (told,) = [text for text in alone.session.notices if "outlier" in text]
    assert told == (
        "data.outlier_length = 16: 1 of 32 training examples are longer, the longest is example 13 of length 62; "
        "each is trained in a slice of its own, none is lost"
    )


def test_a_dropped_outlier_is_counted_with_what_is_lost(tmp_path: Path, outlier: dict[str, Any]) -> None:
    kept = run(tmp_path / "kept", data=outlier)
    lean = run(tmp_path / "lean", data={**outlier, "outlier_length": 16, "outliers": "drop"})
    assert [len(trial.loop._step.lengths) for trial in (kept, lean)] == [32, 31]
    assert lean.peak_bytes - lean.start_bytes < 0.45 * (kept.peak_bytes - kept.start_bytes)
    assert lean.session.reports[-1]["examples_seen"] == 31  # four steps are an epoch
    (told,) = [text for text in lean.session.notices if "outlier" in text]
    assert told.endswith("they are dropped, and 62 of 292 (21.2%) of all length with them")
    none = run(tmp_path / "none", data={**outlier, "outlier_length": 62, "outliers": "drop"})
    assert none.session.notices == ["data.outlier_length = 62: no training example is longer"]
    with pytest.raises(UsageError, match="every training example is longer"):
        run(tmp_path / "all", data={**outlier, "outlier_length": 1, "outliers": "drop"})


def test_padding_further_takes_more_and_trains_the_same(tmp_path: Path, outlier: dict[str, Any]) -> None:
    train = {"micro_batch": 2}
    trials = {
        padding: run(tmp_path / padding, model=STILL, train=train, data={**outlier, "padding": padding})
        for padding in ("batch", "group", "global")
    }
    losses = trials["batch"].losses
    for trial in trials.values():
        assert trial.losses == pytest.approx(losses, rel=1e-4)
    with_outlier = next(n for n, report in enumerate(trials["batch"].session.reports) if report["longest"] == 62)
    for padding, steps in (("group", {with_outlier}), ("global", set(range(4)))):
        more = {
            step
            for step, (wide, lean) in enumerate(
                zip(trials[padding].session.peaks, trials["batch"].session.peaks, strict=True)
            )
            if wide > 1.02 * lean
        }
        assert more | {with_outlier} == steps | {with_outlier}


def activations(trial: Trial) -> int:
    """At most in a step: without weights, optimizer state and, where a step has several slices, the gradients so far."""
    parameters = trial.loop._state.model.parameters()
    gradients = sum(4 * p.numel() for p in parameters) if trial.loop._step.split.grad_accum_steps > 1 else 0
    return trial.peak_bytes - trial.start_bytes - gradients


def test_activations_go_down_with_the_slice_and_the_training_stays(tmp_path: Path) -> None:
    data = {"padding": "global", "max_length": 32}
    whole, half, quarter = (
        run(tmp_path / str(size), model=STILL, train={"micro_batch": size, "max_steps": 2}, data=data)
        for size in (8, 4, 2)
    )
    assert activations(half) == pytest.approx(activations(whole) / 2, rel=0.15)
    assert activations(quarter) == pytest.approx(activations(whole) / 4, rel=0.15)
    for trial in (half, quarter):
        assert trial.losses == pytest.approx(whole.losses, rel=1e-4)


def test_activations_go_down_with_the_length(tmp_path: Path) -> None:
    long, short = (
        run(tmp_path / str(n), data={"padding": "global", "max_length": n}, train={"max_steps": 2}) for n in (32, 16)
    )
    assert max(short.loop._step.lengths) <= 16 < 30 < max(long.loop._step.lengths)
    assert activations(short) < 0.6 * activations(long)


def test_buckets_lower_the_usual_step_and_not_the_worst(tmp_path: Path, outlier: dict[str, Any]) -> None:
    usual, worst = {}, {}
    for padding in ("batch", "bucket"):
        trial = run(tmp_path / padding, data={**outlier, "padding": padding}, train={"global_batch": 4, "max_steps": 8})
        peaks = sorted(peak - trial.start_bytes for peak in trial.session.peaks)
        usual[padding], worst[padding] = sum(peaks[:-1]) / (len(peaks) - 1), peaks[-1]
    assert usual["bucket"] < 0.97 * usual["batch"]
    assert worst["bucket"] == pytest.approx(worst["batch"], rel=0.05)


@pytest.mark.parametrize("data", [{"padding": "bucket"}, {"outlier_length": 16}, {"padding": "global"}], ids=str)
def test_each_resumes_to_the_bit(tmp_path: Path, outlier: dict[str, Any], data: dict[str, Any]) -> None:
    """Over the edge of an epoch, with dropout."""
    train = {"max_steps": 6, "micro_batch": 4}
    whole = run(tmp_path / "whole", data=outlier | data, train=train, checkpoint={"every_steps": 3, "keep_last": 9})
    middle = str(tmp_path / "whole" / "checkpoints" / "step-00000003-full")
    assert_same_checkpoint(whole, run(tmp_path / "resumed", middle, data=outlier | data, train=train))
    if data == {"padding": "bucket"}:
        with pytest.raises(UsageError, match="because order differ"):
            run(tmp_path / "other", middle, data=outlier, train=train)


def test_a_subset_is_drawn_by_the_seed_and_told(tmp_path: Path, outlier: dict[str, Any]) -> None:
    def opened(seed: int = 0, ratio: float = 0.25) -> Any:
        data = {**outlier, "validation_fraction": 0.25, "subset_ratio": ratio}
        return open_task(
            Spec(parse_config({"run": {"seed": seed}, "model": {"config": TINY}, "data": data}), tmp_path, tmp_path)
        )

    whole, part = opened(ratio=1.0), opened()
    assert (len(part.train_lengths), len(part.validation_lengths)) == (6, 2)
    assert part.notes == ["data.subset_ratio = 0.25: 6 of 24 training examples are used"]
    assert part.train_lengths == opened().train_lengths
    assert any(part.train_lengths != opened(seed).train_lengths for seed in range(1, 4))
    places = part._kept["train"]
    assert len(set(places)) == 6
    for number, place in enumerate(places):
        ours, theirs = part.collate("train", [number], 1), whole.collate("train", [place], 1)
        assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)


def test_texts_that_were_cut_are_told(tmp_path: Path) -> None:
    rows = [{"text": "good " * (3 + number), "label": str(number % 2)} for number in range(10)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = {"task": {"name": "text-classification"}, "model": {"config": TINY}}
    data = {"source": "rows.jsonl", "max_length": 10, "vocab_size": 100}
    task: Any = open_task(Spec(parse_config({**table, "data": data}), tmp_path, tmp_path))
    assert task.notes == ["data.max_length = 10: 4 of 10 texts are longer and were cut, 10 of 95 tokens (10.5%) lost"]
    assert max(task.train_lengths) == 10


def test_a_task_that_cannot_pad_further_is_named(toy_run: Make) -> None:
    with pytest.raises(UsageError, match="task toy does not pad beyond"):
        prepared(toy_run(data={"padding": "group", "subset_ratio": 0.5}), Meddling())


def test_ones_own_task_is_thinned_out_too(toy_run: Make) -> None:
    session = Meddling()
    data = {"subset_ratio": 0.5, "outlier_length": 5, "outliers": "drop"}
    loop = prepared(toy_run(data=data), session)
    assert 0 < len(loop._step.lengths) < 10
    assert max(loop._step.lengths) <= 5
    assert loop.run() == "finished"


@pytest.mark.parametrize("data", [{"subset_ratio": 0.0}, {"subset_ratio": 1.5}, {"outlier_length": -1}], ids=str)
def test_what_makes_no_sense_is_told(data: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        parse_config({"data": data})

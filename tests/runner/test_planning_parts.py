"""The pieces of a plan: the cache of a GPU's allocator, ways to pad, changes and what they buy, a GPU's kernels."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from memdash.config import BudgetSection, CheckpointSection, RunConfig, TrainSection
from memdash.errors import MemdashError
from runner.optimizer import make_optimizer
from runner.planning.configuration import Configuration
from runner.planning.cuda_cache import CudaCache
from runner.planning.disk import disk
from runner.planning.padding import ways
from runner.planning.plan import Planner, Question
from runner.planning.room import Room, held_by_malloc
from runner.planning.statistics import LengthStatistics
from runner.planning.trace import Peak
from runner.planning.tracer import Tracer
from runner.planning.variants import changes, choices, variants, with_keys
from runner.precision import Precision
from runner.simulated import SimulatedDevice
from runner.slicing import Slicing
from runner.training_state import Progress, TrainingState
from tests.runner.test_planning import BertTask, estimator

MIB = 1 << 20


@pytest.mark.parametrize("largest", [900 << 10, 8 * MIB, 40 * MIB])
def test_the_cache_is_that_of_the_simulated_device(largest: int, simulated: Callable[[int], SimulatedDevice]) -> None:
    device, cache, chance = simulated(1 << 40), CudaCache(), random.Random(largest)
    before = device.read_memory()
    living: list[tuple[torch.Tensor, tuple[int, int]]] = []
    for _ in range(400):
        if living and chance.random() < 0.5:
            tensor, block = living.pop(chance.randrange(len(living)))
            del tensor
            cache.give(block)
        else:
            size = chance.randrange(1, largest)
            living.append((torch.empty(size, dtype=torch.uint8), cache.take(size)))
    assert before.reserved_bytes == 0
    assert device.read_memory().reserved_bytes == cache.reserved


class Linear:
    """Bytes are cells."""

    why_not_scaled = ""

    def held(self, phase: str, batch: int, length: int) -> int:
        return batch * length if phase != "commit" else 1


def configuration(lengths: list[int], room: int | None = None, **train: Any) -> Configuration:
    config = RunConfig(train=TrainSection(global_batch=4, **train))
    return Configuration(config, Slicing(lengths), Room(room), Linear())  # type: ignore[arg-type]


def test_what_lowers_the_worst_slice_is_told_from_what_lowers_the_usual_one() -> None:
    lengths = [1, 5, 1, 1] * 15 + [40]
    cannot = {"group", "global", "flat", "sequential"}
    found = {way["name"]: way for way in ways(configuration(lengths), LengthStatistics.of(lengths), cannot)}
    assert list(found)[0] == "batch"
    assert {name for name, way in found.items() if not way["is_possible"]} == {"group", "global"}
    assert found["batch"]["worst_bytes"] == found["global"]["worst_bytes"] == 4 * 40
    assert found["bucket"]["usual_bytes"] < found["batch"]["usual_bytes"]
    assert found["global"]["blow_up"] == pytest.approx(40 * 61 / (120 + 40))
    assert found["global"]["blow_up_usual"] == pytest.approx(5 * 60 / 120)
    assert found["isolate"]["worst_bytes"] == 40
    assert found["drop"]["worst_bytes"] == found["truncate"]["worst_bytes"] == 4 * 5
    assert found["drop"]["loses"] == "1 of 61 examples, 25.0% of all length"
    assert found["truncate"]["keys"] == {"data.outlier_length": 5, "data.outliers": "truncate"}


def test_holes_are_of_what_comes_and_goes() -> None:
    terms = {"parameters": 100, "gradients": 50, "optimizer state": 200, "activations": 100, "temporaries": 50}
    assert held_by_malloc(Peak(500, terms)) == 500 + round(0.46 * 200)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("train", "names"),
    [
        ({}, ["bf16", "checkpointing", "bf16 + checkpointing", "frozen encoder", "adafactor", "sgd"]),
        ({"precision": "fp16", "optimizer": "sgd"}, ["checkpointing", "frozen encoder"]),
        ({"gradient_checkpointing": True}, ["bf16", "no checkpointing", "frozen encoder", "adafactor", "sgd"]),
    ],
)
def test_only_what_the_config_does_not_have_is_a_change(train: dict[str, Any], names: list[str]) -> None:
    assert [change.name for change in changes(RunConfig(train=TrainSection(**train)), "bf16")] == names


def test_a_change_sets_its_keys_and_nothing_else() -> None:
    config = with_keys(RunConfig(), {"train.precision": "fp16", "model.freeze": "encoder"})
    assert (config.train.precision, config.model.freeze, config.train.global_batch) == ("fp16", "encoder", 16)


def row(name: str, *, recomputes: bool, largest: int | None, smallest: int, alike: bool = True) -> dict[str, Any]:
    return {
        "keys": {name: 1}, "recomputes": recomputes, "trains_alike": alike, "largest": largest, "smallest_bytes": smallest
    }  # fmt: skip


def test_the_fastest_computes_nothing_twice_if_that_fits_and_the_smallest_trains_the_same() -> None:
    base = configuration([10] * 8, room=15)
    rows = [
        row("checkpointing", recomputes=True, largest=4, smallest=3),
        row("half", recomputes=False, largest=2, smallest=5),
        row("frozen", recomputes=False, largest=4, smallest=1, alike=False),
    ]
    found = choices(base, None, rows)
    assert found["fastest"] == {"keys": {"half": 1}, "micro_batch": 2, "recomputes": False}
    assert found["smallest"] == {"keys": {"checkpointing": 1}, "micro_batch": 1, "bytes": 3}
    assert choices(configuration([10] * 8, room=5), None, rows[:1])["fastest"]["recomputes"]
    assert choices(configuration([10] * 8, room=5), None, []) == {"fastest": None, "smallest": None}


def test_a_change_that_cannot_be_traced_is_left_out() -> None:
    def trace(config: RunConfig) -> Configuration:
        if config.model.freeze != "none":
            raise MemdashError("no encoder")
        return configuration([10] * 8)

    names = [row["name"] for row in variants(configuration([10] * 8), "bf16", trace)]
    assert "bf16" in names
    assert "frozen encoder" not in names


def test_what_changes_buy_is_what_their_own_configs_are_traced_to_need() -> None:
    task = BertTask()
    config = RunConfig(train=TrainSection(global_batch=8))
    plan = Planner(task, task.build_model(), config, Room(1 << 40), Question(variants=True)).plan()
    found = {row["name"]: row for row in plan["variants"]}
    assert -0.9 < found["checkpointing"]["share"] < -0.2
    assert found["frozen encoder"]["share"] < found["sgd"]["share"] < 0
    (own,) = (row for row in plan["rows"] if row["micro_batch"] == 8)
    estimate, _ = estimator(task, config.train, group=8)
    assert own["worst_bytes"] == max(estimate.step(8, length, 1).bytes for length in task.train_lengths)
    sgd, _ = estimator(task, TrainSection(global_batch=8, optimizer="sgd"), group=8)
    worst = max(sgd.step(8, length, 1).bytes for length in task.train_lengths)
    assert found["sgd"]["worst_bytes"] == worst  # though a frozen encoder of the same tensors was traced before it
    assert plan["choices"]["fastest"]["micro_batch"] == 8


@pytest.mark.parametrize("train", [{}, {"gradient_checkpointing": True, "precision": "fp16"}])
def test_a_gpus_kernels_keep_less(train: dict[str, Any]) -> None:
    from runner.adapt import adapt

    task, config = BertTask(), RunConfig(train=TrainSection(**train))
    peaks = []
    for as_cuda in (False, True):
        model = task.build_model()
        adapt(model, config)
        trace = Tracer(task, model, config.train, as_cuda=as_cuda).trace(4, len(task.train_lengths) - 2)
        peaks.append(trace.script.peak("first", torch.tensor(trace.sizes).numpy()))
    assert peaks[1].bytes < peaks[0].bytes
    if not train:
        # Of each layer: the float masks of two dropouts become bytes, and no scores of 2 heads are kept.
        hidden, scores = 4 * 128 * 128, 4 * 2 * 128 * 128
        assert peaks[0].terms["activations"] - peaks[1].terms["activations"] > 2 * (2 * 3 * hidden + 2 * 4 * scores)


@pytest.mark.parametrize(
    ("budget", "verdict"), [("", "unknown"), ("1KB", "refused"), ("1GB", "fits"), ("12MB", "makes way")]
)
def test_the_disk_budget_beside_what_the_schedule_comes_to(budget: str, verdict: str) -> None:
    model = torch.nn.Linear(500, 500)
    train = TrainSection()
    state = TrainingState(model, make_optimizer(model, train), Progress(), None, Precision())  # type: ignore[arg-type]
    config = RunConfig(
        train=train, budget=BudgetSection(disk=budget), checkpoint=CheckpointSection(every_steps=5, keep_last=4)
    )
    found = disk(config, state)
    assert found["verdict"] == verdict
    assert found["full_bytes"] == pytest.approx(3 * 500 * 501 * 4, rel=0.06)
    assert found["light_bytes"] == pytest.approx(500 * 501 * 4, rel=0.06)
    assert found["most_bytes"] == 5 * found["full_bytes"]

"""Early stopping, and a cache that is given back every few steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memdash.config import TrainSection
from memdash.config_file import parse_config
from memdash.errors import ConfigError, ExitCode
from runner.loop import Loop
from runner.patience import Patience
from runner.simulated import SimulatedDevice
from runner.training_state import Progress, read_training
from tests.runner.conftest import run_to_end
from tests.runner.strategies import assert_same_checkpoint, run
from tests.runner.test_loop import Meddling, prepared

Make = Callable[..., Path]
NAN = float("nan")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # transformers' own imports


@pytest.mark.parametrize(
    ("metric", "values", "ends_after", "best_step"),
    [
        ("loss", [3.0, 2.0, 2.5, 2.0], 4, 2),  # as good as the best is no better
        ("loss", [3.0, 2.0, 2.5, 1.0, 1.5], None, 4),
        ("accuracy", [0.1, 0.3, 0.2, 0.3], 4, 2),
        ("accuracy", [0.1, 0.3, 0.2, 0.4, 0.3], None, 4),
        ("loss", [3.0, NAN, NAN], 3, 1),
        ("loss", [NAN, NAN], 2, 0),
        ("macro_f1", [], None, 0),
    ],
)
def test_patience_ends_where_nothing_got_better(
    metric: str, values: list[float], ends_after: int | None, best_step: int
) -> None:
    patience, progress = Patience(TrainSection(patience=2, patience_metric=metric), Meddling()), Progress()
    ended = None
    for number, value in enumerate(values, 1):
        progress.step = number
        patience.look({metric: value}, progress)
        if patience.why_over(progress) and ended is None:
            ended = number
    assert (ended, progress.best_step) == (ends_after, best_step)


def test_a_metric_that_there_is_not_stops_nothing_and_is_told_once() -> None:
    session = Meddling()
    patience, progress = Patience(TrainSection(patience=1, patience_metric="f1"), session), Progress()
    for _ in range(3):
        patience.look({"loss": 1.0}, progress)
    assert not patience.why_over(progress)
    assert session.notices == ["train.patience_metric: there is no metric f1, only loss; no early stop"]


def with_metrics(loop: Loop, losses: dict[int, float]) -> Loop:
    """Evaluations that give these losses after these steps."""
    loop._evaluation.run = lambda _size: bool(  # type: ignore[method-assign]
        setattr(loop._evaluation, "metrics", {"loss": losses[loop._state.progress.step]}) or True
    )
    return loop


LOSSES = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.25, 10: 2.125, 12: 1.0}


@pytest.mark.parametrize("stop_after", [0, 4, 6])
def test_a_resumed_run_ends_early_where_one_that_never_stopped_does(toy_run: Make, stop_after: int) -> None:
    train = {"eval_every": 2, "patience": 3, "epochs": 5}
    run_dir = toy_run(train=train, checkpoint={"at_end": "full", "every_steps": 2})
    session = Meddling()
    loop = with_metrics(prepared(run_dir, session), LOSSES)
    if stop_after:
        session.meddle = lambda: len(session.reports) < stop_after
        assert loop.run() == "stopped"
        loop.saving.save("full", "command")
        session = Meddling()
        loop = with_metrics(prepared(run_dir, session, "latest"), LOSSES)
    assert loop.run() == "finished"
    told = "stopped early at step 10: loss no better in 3 evaluations (best after step 4: 2.0000)"
    assert loop.why_early == told
    assert session.notices[-1] == told
    (last,) = (run_dir / "checkpoints").glob("step-00000010-full")
    assert read_training(last)["progress"]["evaluations_since_best"] == 3


def test_a_training_process_that_ends_early_is_finished(toy_run: Make) -> None:
    run_dir = toy_run(train={"epochs": 40, "eval_every": 2, "patience": 2, "learning_rate": 20.0})
    done = run_to_end(run_dir)
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    assert "\nstopped early at step " in done.stdout
    assert "step 200/200" not in done.stdout


def test_patience_needs_evaluations() -> None:
    with pytest.raises(ConfigError, match="there are no evaluations to wait for"):
        parse_config({"train": {"patience": 2}})


def test_the_cache_is_given_back_every_few_steps_and_nothing_else_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = run(tmp_path / "calm")
    given_back: list[tuple[int, int]] = []
    empty_cache = SimulatedDevice.empty_cache

    def watched(device: SimulatedDevice) -> int:
        before = device.read_memory()
        result = empty_cache(device)
        after = device.read_memory()
        given_back.append(((before.reserved_bytes or 0) - (after.reserved_bytes or 0), result))
        return result

    monkeypatch.setattr(SimulatedDevice, "empty_cache", watched)
    emptied = run(tmp_path / "emptied", memory={"empty_cache_every": 2})
    assert len(given_back) == 2  # after 2 and 4 of 4 steps
    activations = calm.peak_bytes - calm.start_bytes
    assert all(fell == told >= activations // 2 for fell, told in given_back)
    assert_same_checkpoint(calm, emptied)
    assert emptied.losses == calm.losses


def test_a_cache_is_not_emptied_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_device: Any) -> int:
        raise AssertionError("nobody asked")

    monkeypatch.setattr(SimulatedDevice, "empty_cache", never)
    run(tmp_path / "calm")

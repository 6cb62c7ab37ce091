"""When a run saves and what it keeps: by time, by epoch, the best one; what a full disk costs; what a stop leaves due."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from memdash.checkpoints import complete, export, verify
from memdash.errors import StoreError
from runner.checkpoint import CheckpointStore
from runner.loop import Loop
from runner.saving import MAX_RETRY_S, RETRY_S
from runner.training_state import read_training
from tests.runner.test_loop import Meddling, prepared

Make = Callable[..., Path]


def kept(run_dir: Path) -> list[tuple[str, str]]:
    return [(found.path.name, found.reason) for found in reversed(complete(run_dir / "checkpoints"))]


def start(run_dir: Path, session: Meddling | None = None, resume: str = "") -> tuple[Loop, Meddling]:
    session = session or Meddling()
    return prepared(run_dir, session, resume), session


def test_at_the_end_of_every_epoch(toy_run: Make) -> None:
    """20 examples in groups of 3: 7 steps an epoch."""
    run_dir = toy_run(
        train={"global_batch": 3, "epochs": 3}, checkpoint={"every_epoch": True, "keep_last": 9, "at_end": "light"}
    )
    start(run_dir)[0].run()
    full = [name for name, reason in kept(run_dir) if reason == "schedule"]
    assert full == ["step-00000007-full", "step-00000014-full", "step-00000021-full"]
    assert [read_training(run_dir / "checkpoints" / name)["progress"]["epoch"] for name in full] == [1, 2, 3]


def test_the_end_is_not_saved_twice(toy_run: Make) -> None:
    run_dir = toy_run(train={"max_steps": 4}, checkpoint={"every_steps": 2, "at_end": "full"})
    start(run_dir)[0].run()
    assert kept(run_dir) == [("step-00000002-full", "schedule"), ("step-00000004-full", "end")]


def test_minutes_are_minutes_of_training(toy_run: Make) -> None:
    """A step takes a minute here; the pause of an hour in the middle does not count."""
    run_dir = toy_run(train={"max_steps": 10}, checkpoint={"every_minutes": 2.5, "keep_last": 9, "at_end": "none"})
    loop, session = start(run_dir)
    now_s = 1000.0
    loop.saving._clock = lambda: now_s
    loop.saving._saved_s = now_s

    def a_minute_later() -> bool:
        nonlocal now_s
        if session.reports:
            now_s += 60
        if len(session.reports) == 5:
            now_s += 3600
            session.paused_s += 3600
        return True

    session.meddle = a_minute_later
    loop.run()
    assert [name for name, _ in kept(run_dir)] == [f"step-{step:08d}-full" for step in (3, 6, 9)]


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("loss", [3.0, 2.0, math.nan, 2.5, 1.0, 1.0], 5),
        ("accuracy", [0.1, 0.3, 0.2, 0.3, math.nan, 0.2], 2),
        ("accuracy", [math.nan, 0.1, 0.1, 0.1, 0.1, 0.1], 2),
    ],
)
def test_the_best_is_kept(toy_run: Make, metric: str, values: list[float], best: int) -> None:
    run_dir = toy_run(train={"max_steps": 6, "eval_every": 1}, checkpoint={"keep_best": metric, "at_end": "none"})
    loop, _ = start(run_dir)
    following = iter(values)

    def evaluate(_micro_batch: int) -> bool:
        loop._evaluation.metrics = {metric: next(following), "other": 0.0}
        return True

    loop._evaluation.run = evaluate  # type: ignore[method-assign]
    loop.run()
    assert kept(run_dir) == [(f"step-{best:08d}-light", "best")]
    saved = read_training(run_dir / "checkpoints" / f"step-{best:08d}-light")["best"]
    assert saved == {"metric": metric, "value": values[best - 1]}


def test_the_best_before_is_there_until_the_new_one_is(toy_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = toy_run(checkpoint={"keep_best": "loss", "at_end": "none"})
    loop, session = start(run_dir)
    loop._evaluation.metrics = {"loss": 2.0}
    loop.saving.after_evaluation()
    loop._state.progress.step = 5
    loop._evaluation.metrics = {"loss": 1.0}
    with monkeypatch.context() as failing:
        failing.setattr("runner.checkpoint.os.rename", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        loop.saving.after_evaluation()
    assert "broken" in session.notices[-1]
    assert kept(run_dir) == [("step-00000000-light", "best")]
    loop.saving.after_evaluation()
    assert kept(run_dir) == [("step-00000005-light", "best")]


def test_a_run_that_goes_on_knows_its_best(toy_run: Make) -> None:
    run_dir = toy_run(checkpoint={"keep_best": "loss", "at_end": "none"})
    loop, _ = start(run_dir)
    loop.saving.save("full", "command")
    loop._state.progress.step = 7
    loop._evaluation.metrics = {"loss": 1.0}
    loop.saving.after_evaluation()
    again, _ = start(run_dir, resume="latest")
    again._evaluation.metrics = {"loss": 1.5}
    again.saving.after_evaluation()
    assert kept(run_dir) == [("step-00000000-full", "command"), ("step-00000007-light", "best")]


def test_a_metric_that_is_not_there_is_said_once(toy_run: Make) -> None:
    run_dir = toy_run(train={"max_steps": 4, "eval_every": 1}, checkpoint={"keep_best": "f1"})
    loop, session = start(run_dir)
    loop.run()
    assert session.notices == ["checkpoint.keep_best: there is no metric f1, only loss"]


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_light_ones_may_be_smaller(toy_run: Make, precision: str, dtype: torch.dtype) -> None:
    options = {"dtype": "float32", "batch_norm": True, "width": 64}
    run_dir = toy_run(options=options, train={"max_steps": 2}, checkpoint={"light_precision": precision})
    loop, _ = start(run_dir)
    loop.run()
    loop.saving.save("full", "command")
    full, light = (run_dir / "checkpoints" / f"step-00000002-{kind}" for kind in ("full", "light"))
    exact, cast = (load_file(path / "model.safetensors") for path in (full, light))
    assert exact.keys() == cast.keys()
    for name, tensor in exact.items():
        wanted = dtype if tensor.is_floating_point() else tensor.dtype
        assert cast[name].dtype == wanted
        assert torch.equal(cast[name], tensor.to(wanted))
    sizes = [(path / "model.safetensors").stat().st_size for path in (full, light)]
    assert sizes[1] < 0.6 * sizes[0]
    assert sizes[1] == pytest.approx(sum(f.stat().st_size for f in full.glob("*.safetensors")) / 6, rel=0.2)
    need_bytes = loop._state.need_bytes("light", dtype)
    assert need_bytes <= sizes[1] < need_bytes + 2000
    again, _ = start(run_dir)
    again._state.load_weights(light)
    weights = again._state.model.state_dict()
    assert torch.equal(weights["mix.weight"], cast["mix.weight"].float())


def language_model(tmp_path: Path, toy_run: Make, **sections: Any) -> Path:
    """A run of a BERT of two thousand parameters, with a tokenizer that is trained at the start."""
    (tmp_path / "texts.txt").write_text("\n\n".join(f"text number {n} about memory" for n in range(40)))
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return toy_run(
        task={"name": "language-modelling", "options": {}},
        model={"config": size},
        data={"source": "texts.txt", "vocab_size": 100, "max_length": 16},
        **sections,
    )


def test_a_light_one_in_half_precision_opens_with_from_pretrained(tmp_path: Path, toy_run: Make) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    run_dir = language_model(tmp_path, toy_run, train={"max_steps": 1}, checkpoint={"light_precision": "bf16"})
    loop, _ = start(run_dir)
    loop.run()
    loop.saving.save("full", "command")
    for kind, dtype in (("light", torch.bfloat16), ("full", torch.float32)):
        path = run_dir / "checkpoints" / f"step-00000001-{kind}"
        assert json.loads((path / "config.json").read_bytes())["dtype"] == str(dtype).removeprefix("torch.")
        model, report = AutoModelForMaskedLM.from_pretrained(path, output_loading_info=True)
        assert not report["missing_keys"]
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert AutoTokenizer.from_pretrained(path)("memory")["input_ids"]
        export(verify(path), tmp_path / kind)
        exported = AutoModelForMaskedLM.from_pretrained(tmp_path / kind)
        pairs = zip(exported.parameters(), model.parameters(), strict=True)
        assert all(torch.equal(left, right) for left, right in pairs)
        assert not {"training.json", "state.safetensors", "manifest.json"} & set(os.listdir(tmp_path / kind))


def test_a_language_model_goes_on_bitwise_with_the_checkpoints_tokenizer(tmp_path: Path, toy_run: Make) -> None:
    train, checkpoint = {"max_steps": 6, "eval_every": 2}, {"every_steps": 3, "at_end": "full"}
    run_dir = language_model(tmp_path, toy_run, train=train, checkpoint=checkpoint)
    start(run_dir)[0].run()
    assert (run_dir / "checkpoints" / "step-00000003-full" / "tokenizer.json").is_file()
    start(run_dir, resume="step-00000003-full")[0].run()
    for name in ("model.safetensors", "state.safetensors", "training.json"):
        calm, again = (run_dir / "checkpoints" / f"step-00000006-full{n}" / name for n in ("", "-2"))
        assert calm.read_bytes() == again.read_bytes(), name


def test_a_full_disk_is_tried_again_later_and_later(toy_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = toy_run(train={"max_steps": 400}, checkpoint={"every_steps": 1, "keep_last": 1, "at_end": "none"})
    loop, session = start(run_dir)
    now_s, tried_at = 0.0, []
    loop.saving._clock = lambda: now_s
    real = CheckpointStore.save

    def full_for_an_hour(self: CheckpointStore, *arguments: Any) -> Any:
        tried_at.append(now_s)
        if now_s < 3600:
            raise StoreError("no room for a checkpoint: it needs 2 GiB, 1 GiB are free")
        return real(self, *arguments)

    def later() -> bool:
        nonlocal now_s
        now_s += 10
        return len(session.reports) < 500

    monkeypatch.setattr(CheckpointStore, "save", full_for_an_hour)
    session.meddle = later
    assert loop.run() == "finished"
    failed = [time_s for time_s in tried_at if time_s < 3600]
    waits = [after - before for before, after in zip(failed, failed[1:], strict=False)]
    assert waits == [RETRY_S, 2 * RETRY_S, 4 * RETRY_S, 8 * RETRY_S, 16 * RETRY_S]
    assert sum("it needs 2 GiB, 1 GiB are free" in note for note in session.notices) == len(failed)
    assert waits[-1] < MAX_RETRY_S
    assert len([time_s for time_s in tried_at if time_s > 3600]) > 20  # every step again, once there was room
    assert kept(run_dir) == [("step-00000400-full", "schedule")]


def test_a_task_that_cannot_save_its_files_ends_no_training(toy_run: Make) -> None:
    run_dir = toy_run(train={"max_steps": 3}, checkpoint={"every_steps": 1, "at_end": "none"})
    loop, session = start(run_dir)

    def broken(_model: Any, _folder: Path) -> None:
        raise KeyError("a bug in the user's task")

    loop._step._task.save_files = broken  # type: ignore[method-assign]
    assert loop.run() == "finished"
    assert "a bug in the user's task" in session.notices[0]
    assert list((run_dir / "checkpoints").iterdir()) == []


def test_a_task_that_writes_weights_of_its_own_spoils_nothing(toy_run: Make) -> None:
    run_dir = toy_run(train={"max_steps": 1})
    loop, _ = start(run_dir)

    def meddles(_model: Any, folder: Path) -> None:
        for name in ("model.safetensors", "training.json", "manifest.json"):
            (folder / name).write_bytes(b"mine, and longer than nothing")

    loop._step._task.save_files = meddles  # type: ignore[method-assign]
    loop.run()
    saved = verify(run_dir / "checkpoints" / "step-00000001-light")
    assert set(saved.files) == {"model.safetensors", "training.json"}
    load_file(saved.path / "model.safetensors")


@pytest.mark.parametrize(("free", "warned"), [(1.9, True), (2.1, False)])
def test_little_room_is_said_at_the_start(
    toy_run: Make, monkeypatch: pytest.MonkeyPatch, free: float, warned: bool
) -> None:
    run_dir = toy_run()
    need_bytes = start(run_dir)[0]._state.need_bytes("full") * 1.05
    monkeypatch.setattr(CheckpointStore, "free_bytes", lambda _self: round(free * need_bytes))
    _, session = start(run_dir)
    assert any("little room for checkpoints" in note for note in session.notices) is warned


def test_what_is_left_behind_pushes_out_nothing_new(toy_run: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is taken up again at step 2 although it had gone to step 8: its new checkpoints are the ones to keep."""
    train, checkpoint = {"max_steps": 8}, {"every_steps": 2, "keep_last": 2, "at_end": "none"}
    run_dir = toy_run(train=train, checkpoint=checkpoint)
    loop, _ = start(run_dir)
    while loop._state.progress.step < 2:
        loop._one_step()
    loop.saving.save("full", "command")
    loop.run()
    monkeypatch.setenv("MEMDASH_ATTEMPT", "1")
    session = Meddling(lambda: len(session.reports) < 3)
    start(run_dir, session, "step-00000002-full")[0].run()
    names = [found.path.name for found in complete(run_dir / "checkpoints")]
    assert names[0] == "step-00000004-full"  # the newest, of attempt 1
    assert "step-00000002-full" in names  # asked for by hand


def test_an_evaluation_that_was_stopped_is_done_after_the_resume(toy_run: Make) -> None:
    run_dir = toy_run(train={"max_steps": 4, "eval_every": 2}, checkpoint={"keep_best": "loss", "at_end": "none"})
    session = Meddling()
    loop, _ = start(run_dir, session)

    def stop_in_the_evaluation() -> bool:
        if loop._evaluation.rng_before is None:
            return True
        loop.saving.save("full", "command")
        return False

    session.meddle = stop_in_the_evaluation
    assert loop.run() == "stopped"
    assert kept(run_dir) == [("step-00000002-full", "command")]
    again, _ = start(run_dir, resume="latest")
    evaluated: list[int] = []
    real = again._evaluation.run

    def run(micro_batch: int) -> bool:
        evaluated.append(again._state.progress.step)
        return real(micro_batch)

    again._evaluation.run = run  # type: ignore[method-assign]
    assert again.run() == "finished"
    assert evaluated == [2, 4]

"""Whole runs in bad weather: OOMs, torn updates, pauses, other splits, growth, stops and resumes in any mixture."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from memdash.agent.session import Session
from memdash.wire import SetBatchSplit
from runner.launch import prepare
from runner.loop import Loop
from runner.oom import OutOfMemoryStop
from runner.release import Release
from runner.spec import read_spec
from tests.runner.conftest import assert_bitwise
from tests.runner.test_loop import Meddling, prepared

Make = Callable[..., Path]
OOM = "CUDA out of memory. Tried to allocate 2.00 MiB."
FRAGMENTED = f"{OOM} Of this, 3.00 MiB is reserved by PyTorch but unallocated."


@dataclass
class Weather:
    """What happens, by chance, and what the run makes of it."""

    chance: random.Random
    oom: float = 0.0
    """Of a forward that is cut in more than one."""
    fragmented: float = 0.0
    torn: float = 0.0
    split: float = 0.0
    release: float = 0.0
    stop: float = 0.0
    torn_once: bool = True
    torn_at: int = 5
    """The last step whose update was torn; none is before the first checkpoint."""
    kept: list[tuple[int, list[int], float, float]] = field(default_factory=list)
    """Of every step that counts in the end: epoch, examples, learning rate, loss."""
    counts: dict[str, int] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)

    def happens(self, what: str) -> bool:
        if self.chance.random() >= getattr(self, what):
            return False
        self.counts[what] = self.counts.get(what, 0) + 1
        return True


def run(run_dir: Path, weather: Weather) -> dict[str, Any]:
    """To the end, in as many launches as it takes; parameters, buffers, optimizer, generators and scale at the end."""
    outcome, launches = "stopped", 0
    while outcome == "stopped":
        session = Meddling()
        loop = prepared(run_dir, session, "latest" if launches else "")
        session.meddle = lambda loop=loop: meddle(loop, weather)  # type: ignore[misc]
        watch(loop, session, weather)
        outcome, launches = loop.run(), launches + 1
        weather.notices += session.notices
    state = loop._state
    tensors = {name: t.detach().clone() for name, t in state.model.state_dict().items()}
    tensors |= {name: t.clone() for name, t in state._optimizer_tensors().items()}
    return tensors | {"rng": torch.get_rng_state(), "scale": torch.tensor(state.precision.loss_scale)}


def meddle(loop: Loop, weather: Weather) -> bool:
    """Between two steps, as commands would."""
    if weather.happens("split"):
        loop._on_set_batch_split(SetBatchSplit(command_id="x", micro_batch=weather.chance.randint(1, 6)))
    if weather.happens("release"):
        pause = Release(loop._state, lambda: 1 << 40)
        pause.release()
        pause.restore()
    if weather.happens("stop"):
        loop.saving.save("full", "command")
        return False
    return True


def watch(loop: Loop, session: Session, weather: Weather) -> None:
    """Let work fail now and then, and keep what counts."""
    step, task, optimizer = loop._step, loop._step._task, loop._state.optimizer
    real_train, real_loss, real_update = step.train, task.loss_sum, optimizer.step

    def train(indices: Any, epoch: int, learning_rate: float, *rest: Any) -> Any:
        result = real_train(indices, epoch, learning_rate, *rest)
        del weather.kept[loop._state.progress.step :]  # what was trained before the run went back to here
        weather.kept.append((epoch, list(indices), learning_rate, result.loss))
        return result

    def loss_sum(model: Any, batch: Any) -> Any:
        loss = real_loss(model, batch)
        if step.split.micro_batch > 1 and weather.happens("oom"):
            raise torch.OutOfMemoryError(OOM)
        if weather.counts.get("fragmented", 0) < 3 and weather.happens("fragmented"):
            raise torch.OutOfMemoryError(FRAGMENTED)
        return loss

    def update() -> Any:
        number = loop._state.progress.step + 1
        if number > weather.torn_at and weather.happens("torn"):
            weather.torn_at = number if weather.torn_once else 0
            with torch.no_grad():
                next(iter(optimizer.state.values()))["exp_avg"].add_(1)
            raise torch.OutOfMemoryError(OOM)
        return real_update()

    step.train, task.loss_sum, optimizer.step = train, loss_sum, update  # type: ignore[method-assign]


@pytest.mark.parametrize("seed", range(4))
def test_every_example_once_an_epoch_in_any_weather(toy_run: Make, quick_gc: None, seed: int) -> None:
    """Learning rates, groups, step count and losses are those of a calm run."""
    train = {"global_batch": 6, "epochs": 5, "warmup_steps": 3, "grow_after": 2}
    checkpoint = {"at_end": "none", "every_steps": 3}
    calm = Weather(random.Random(seed))
    run(toy_run("calm", train=train, checkpoint=checkpoint), calm)
    storm = Weather(random.Random(seed), oom=0.1, torn=0.3, split=0.15, release=0.3, stop=0.15)
    run(toy_run("storm", train=train, checkpoint=checkpoint), storm)
    assert {"oom", "torn", "split", "release", "stop"} == set(storm.counts)
    assert [step[:3] for step in storm.kept] == [step[:3] for step in calm.kept]
    for epoch in range(5):
        assert sorted(index for step in storm.kept for index in step[1] if step[0] == epoch) == list(range(20))
    for stormy, quiet in zip(storm.kept, calm.kept, strict=True):
        assert stormy[3] == pytest.approx(quiet[3], abs=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_weather_that_leaves_the_split_alone_leaves_no_trace(toy_run: Make, quick_gc: None, seed: int) -> None:
    """Dropout and fp16 on: what passes by, pauses, stops and torn updates change not a bit."""
    options = {"dropout": 0.3, "batch_norm": True, "dtype": "float32"}
    train = {"global_batch": 6, "micro_batch": 2, "epochs": 4, "precision": "fp16"}
    sections = {"train": train, "options": options, "checkpoint": {"at_end": "none", "every_steps": 2}}
    calm, storm = (
        Weather(random.Random(seed)),
        Weather(random.Random(seed), fragmented=0.1, torn=0.3, release=0.3, stop=0.15),
    )
    expected = run(toy_run("calm", **sections), calm)
    assert_bitwise(run(toy_run("storm", **sections), storm), expected)
    assert storm.kept == calm.kept
    assert {"fragmented", "torn", "release", "stop"} == set(storm.counts)


def torn_run(run_dir: Path, times: dict[int, int], resume: str = "") -> tuple[Loop, Meddling]:
    """A run whose update of step N is torn so many times."""
    session = Meddling()
    loop = prepared(run_dir, session, resume)
    left = dict(times)

    def tears(what: str) -> bool:
        number = loop._state.progress.step + 1
        if what != "torn" or not left.get(number):
            return False
        left[number] -= 1
        return True

    weather = Weather(random.Random(0), torn_once=False, torn_at=0)
    weather.happens = tears  # type: ignore[method-assign]
    watch(loop, session, weather)
    return loop, session


SIX_STEPS = {"train": {"max_steps": 6}, "checkpoint": {"at_end": "none", "every_steps": 2}}


def test_a_torn_update_goes_back_and_says_so(toy_run: Make) -> None:
    loop, session = torn_run(toy_run(**SIX_STEPS), {4: 1, 6: 1})
    assert loop.run() == "finished"
    assert [report["examples_seen"] for report in session.reports] == [4, 8, 12, 12, 16, 20, 20, 24]
    assert session.step == 6
    told = [text for text in session.notices if "went back" in text]
    assert told[0] == (
        "out of memory in the middle of the update of step 4: went back to step-00000002-full; what came after it is "
        "trained again from there, so that every example still counts once"
    )
    assert len(told) == 2
    saved = sorted(path.name for path in loop._rollback._folder.glob("step-*"))
    assert saved == ["step-00000004-full", "step-00000006-full"]


@pytest.mark.parametrize(("times", "trained"), [({2: 1}, 1), ({5: 2}, 4)])
def test_without_a_way_back_it_stops(toy_run: Make, times: dict[int, int], trained: int) -> None:
    """No checkpoint yet, or the same update torn again."""
    loop, session = torn_run(toy_run(**SIX_STEPS), times)
    with pytest.raises(OutOfMemoryStop, match="middle of an optimizer step") as stop:
        loop.run()
    assert not stop.value.state_is_whole
    assert len(session.reports) == trained


def test_a_damaged_checkpoint_is_passed_over_on_the_way_back(toy_run: Make) -> None:
    loop, session = torn_run(toy_run(**SIX_STEPS), {5: 1})
    real = loop._rollback.go_back

    def go_back(stop: OutOfMemoryStop) -> None:
        path = loop._rollback._folder / "step-00000004-full" / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        real(stop)

    loop._rollback.go_back = go_back  # type: ignore[method-assign]
    assert loop.run() == "finished"
    assert any("step-00000004-full" in text and "passed over" in text for text in session.notices)
    assert any("went back to step-00000002-full" in text for text in session.notices)


def test_the_way_back_leads_to_this_training_only(toy_run: Make) -> None:
    """Not to the future that was left when it was resumed from an older checkpoint, nor to another config's past."""
    run_dir = toy_run(train={"max_steps": 6}, checkpoint={"at_end": "none", "every_steps": 2, "keep_last": 9})
    torn_run(run_dir, {})[0].run()
    loop, session = torn_run(run_dir, {6: 1}, resume="step-00000004-full")
    assert loop.run() == "finished"
    assert any("went back to step-00000004-full" in text for text in session.notices)
    loop, _ = torn_run(run_dir, {6: 1}, resume="step-00000004-full")
    loop._rollback._fingerprint = {}
    with pytest.raises(OutOfMemoryStop):
        loop.run()


def test_a_launch_may_be_told_its_micro_batch(toy_run: Make) -> None:
    """As after a kill for want of memory: it holds over the checkpoint's, and nothing larger is tried again."""
    run_dir = toy_run(train={"max_steps": 12, "grow_after": 1}, checkpoint={"at_end": "none", "every_steps": 2})
    loop, session = torn_run(run_dir, {})
    session.meddle = lambda: loop._state.progress.step < 2
    assert loop.run() == "stopped"
    loop.saving.save("full", "command")
    spec = read_spec(run_dir, run_dir.parent, resume="latest", micro_batch=1)
    session = Meddling()
    assert prepare(spec, session).run() == "finished"
    assert [report["micro_batch"] for report in session.reports] == [1] * 10

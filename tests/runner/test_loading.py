"""Micro-batches made ahead by worker processes: the same bits whatever happens, and no process that outlives the run."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from memdash import wire
from memdash.config import DataSection
from memdash.errors import ExitCode, UsageError
from memdash.supervisor.symptoms import python_error, symptom
from runner.groups import Groups
from runner.loading import Request, Workers, open_loading
from tests.conftest import wait_until
from tests.runner.conftest import HERE, PROCESS_TIMEOUT_S, command_line, run_to_end
from tests.runner.loading_task import Ill
from tests.runner.test_loop import Meddling, meddle, prepared, watch
from tests.runner.test_process import checkpoints
from tests.runner.toy_task import ToyTask

Make = Callable[..., Path]


class Counting(ToyTask):
    """Says in its batches which process has made them."""

    def collate(self, part: Any, indices: Any, epoch: int) -> Any:
        return {**super().collate(part, indices, epoch), "pid": torch.full((len(indices),), os.getpid())}


@pytest.fixture
def workers() -> Iterator[Callable[..., Workers]]:
    """Starts some, and ends them."""
    started: list[Workers] = []

    def start(num_workers: int = 2, prefetch: int = 2, task: Any = None) -> Workers:
        loading = open_loading(task or Counting(), DataSection(num_workers=num_workers, prefetch=prefetch))
        assert isinstance(loading, Workers)
        started.append(loading)
        return loading

    yield start
    for loading in started:
        loading.close()
    assert not multiprocessing.active_children()


def requests(*starts: int, size: int = 2) -> list[Request]:
    return [Request(tuple(range(start, start + size)), 0, 0) for start in starts]


def same(batches: list[Any], asked: list[Request]) -> None:
    for batch, request in zip(batches, asked, strict=True):
        expected = ToyTask().collate("train", request.indices, request.epoch)
        assert all(torch.equal(batch[name], expected[name]) for name in expected)


# ---- what is made ----


def test_workers_make_what_was_asked_for_in_that_order(workers: Any) -> None:
    loading, asked = workers(), requests(0, 2, 4, 6)
    first = loading.group(asked[:2], lambda: iter(asked[2:]))
    second = loading.group(asked[2:], lambda: iter(()))
    same(first + second, asked)
    pids = {int(batch["pid"][0]) for batch in first + second}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_what_is_ready_and_not_wanted_is_dropped(workers: Any) -> None:
    loading, expected, other = workers(), requests(0, 2, 4, 6), requests(8, 1, 0, size=3)
    same(loading.group(expected[:1], lambda: iter(expected[1:])), expected[:1])
    same(loading.group(other, lambda: iter(expected)), other)
    same(loading.group(expected, lambda: iter(())), expected)
    same(loading.group(expected, lambda: iter(())), expected)


def test_no_more_than_the_prefetch_is_ready(workers: Any) -> None:
    drawn: list[Request] = []

    def following() -> Iterator[Request]:
        for request in requests(*range(2, 18)):
            drawn.append(request)
            yield request

    loading = workers(2, 3)
    loading.group(requests(0), following)
    assert len(loading._asked.waiting) == 6
    assert len(drawn) <= 6


def test_what_a_worker_raises_is_raised_here(workers: Any) -> None:
    for mode, error, words in (("refuse", UsageError, "^example 7 is"), ("fail", KeyError, "a bug in the user's task")):
        loading = workers(task=Ill(mode))
        with pytest.raises(error, match=words):
            loading.group([Request((6, 7), 1, 0)], lambda: iter(()))


def test_groups_to_come_are_those_that_come() -> None:
    groups = Groups(10, 4, seed=3)
    later = [groups.at(epoch, position) for epoch, position in ((0, 8), (1, 0), (1, 4), (1, 8), (2, 0))]
    assert [(epoch, indices) for epoch, indices in groups.after(0, 8, 5)] == list(
        zip((0, 1, 1, 1, 2), later, strict=True)
    )
    assert len(list(groups.after(0, 8, 2))) == 2


def test_the_same_bits_through_any_storm(toy_run: Make) -> None:
    """OOMs that are retried, re-splits in mid-epoch, a step that is capped, stops and resumes: with 0 and with 2 workers."""
    reports, results, taken = {}, {}, {}
    for number in (0, 2):
        chance = random.Random(1)
        train = {"global_batch": 6, "epochs": 3, "warmup_steps": 3}
        options, data = {"dropout": 0.3, "batch_norm": True}, {"num_workers": number}
        run_dir = toy_run(f"with-{number}", options=options, train=train, data=data, checkpoint={"at_end": "full"})
        reports[number], taken[number], outcome = [], Counter[tuple[int, int]](), ""
        while outcome != "finished":
            session = Meddling()
            loop = prepared(run_dir, session, "latest" if reports[number] else "")
            assert isinstance(loop._step._loading, Workers) == bool(number)
            steps_left = [chance.randint(3, 6)]
            session.meddle = partial(meddle, loop, chance, steps_left)
            loop._on_cap_step(wire.CapStep(command_id="x", step=loop._state.progress.step + 2, micro_batch=1))
            watch(loop, chance, taken[number])
            outcome = loop.run()
            reports[number] += [(r["loss"], r["micro_batch"], r["examples_seen"]) for r in session.reports]
        results[number] = checkpoints(run_dir)["step-00000012-full"]
    assert set(taken[2].values()) == {1}
    assert len(taken[2]) == 3 * 20
    assert len({micro_batch for _, micro_batch, _ in reports[2]}) > 2
    assert reports[0] == reports[2]
    for name in ("model.safetensors", "state.safetensors"):
        assert (results[0] / name).read_bytes() == (results[2] / name).read_bytes()


# ---- processes ----


@pytest.fixture
def ill_run(toy_run: Make, tmp_path: Path) -> Make:
    """A run whose workers misbehave as `mode` says."""

    def make(mode: str, **train: Any) -> Path:
        shutil.copy(HERE / "loading_task.py", tmp_path / "loading_task.py")
        shutil.copy(HERE / "toy_task.py", tmp_path / "toy_task.py")
        task = {"name": "loading_task:toy"}
        return toy_run(mode, options={"mode": mode}, task=task, train={"epochs": 3, **train}, data={"num_workers": 2})

    return make


def test_a_worker_that_is_killed_ends_the_run_and_is_named(ill_run: Make) -> None:
    done = run_to_end(ill_run("die"))
    assert done.returncode == ExitCode.FAILED
    found = symptom(python_error(done.stderr), done.stderr)
    assert (found.kind, len(found.pids)) == ("worker", 1), done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_the_run(ill_run: Make, number: int) -> None:
    """Sent to all of the job, as schedulers and terminals do; SIGKILL to the training process alone."""
    run_dir = ill_run("slow", epochs=500)
    with subprocess.Popen(command_line(run_dir), stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        while "step" not in process.stdout.readline():
            assert process.poll() is None
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 2
        if number == signal.SIGKILL:
            process.kill()
        else:
            for one in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM):
                os.killpg(process.pid, one)
        process.communicate(timeout=PROCESS_TIMEOUT_S)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else ExitCode.STOPPED)
    wait_until(lambda: not any(child.is_running() for child in children), "the workers' end")
    if number != signal.SIGKILL:
        assert any(name.endswith("-full") for name in checkpoints(run_dir))

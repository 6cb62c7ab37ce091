"""The training process from outside: its exit codes, its words, its resumes."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memdash.checkpoints import MANIFEST, complete, seal, verify
from memdash.errors import ExitCode
from tests.runner.conftest import PROCESS_TIMEOUT_S, command_line, run_to_end

Make = Callable[..., Path]


def checkpoints(run_dir: Path) -> dict[str, Path]:
    return {path.name: path for path in (run_dir / "checkpoints").glob("step-*")}


def assert_same_state(left: Path, right: Path) -> None:
    """Weights, optimizer, generators and position of two full checkpoints, to the byte."""
    for name in ("model.safetensors", "state.safetensors"):
        assert (left / name).read_bytes() == (right / name).read_bytes(), name
    read = [json.loads((path / "training.json").read_bytes()) for path in (left, right)]
    assert read[0] == read[1]


def test_it_trains_to_the_end_without_a_supervisor(toy_run: Make) -> None:
    run_dir = toy_run(train={"epochs": 6, "eval_every": 10})
    done = run_to_end(run_dir)
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")
    assert "20 examples, 30 steps of 4 x 1 = 4" in done.stdout
    assert "step 30/30 epoch 6" in done.stdout
    assert "evaluation after step 30: loss" in done.stdout
    assert set(checkpoints(run_dir)) == {"step-00000030-light"}
    assert verify(checkpoints(run_dir)["step-00000030-light"]).kind == "light"


def test_a_full_disk_costs_what_it_prints_and_nothing_else(toy_run: Make) -> None:
    run_dir = toy_run(train={"epochs": 2})
    with open("/dev/full", "w") as full:  # every write to it fails for want of room
        done = subprocess.run(command_line(run_dir), stdout=full, stderr=full, timeout=PROCESS_TIMEOUT_S)
    assert done.returncode == ExitCode.OK
    assert set(checkpoints(run_dir)) == {"step-00000010-light"}


@pytest.mark.slow
def test_a_resumed_run_is_bitwise_one_that_never_stopped(toy_run: Make) -> None:
    """20 examples in groups of 3: 7 steps an epoch, so 2 and 6 lie in it, 7 is its edge; dropout and evaluation on."""
    options = {"dropout": 0.3, "batch_norm": True}
    train = {"global_batch": 3, "micro_batch": 2, "max_steps": 10, "eval_every": 4}
    never = toy_run(
        "never", options=options, train=train, checkpoint={"every_steps": 1, "keep_last": 99, "at_end": "full"}
    )
    assert run_to_end(never).returncode == ExitCode.OK
    expected = checkpoints(never)["step-00000010-full"]
    twice = toy_run("twice", options=options, train=train, checkpoint={"every_steps": 3, "at_end": "none"})
    for name, start in {"middle": 2, "edge": 7}.items():
        again = toy_run(name, options=options, train=train, checkpoint={"at_end": "full"})
        done = run_to_end(again, "--resume", str(checkpoints(never)[f"step-{start:08d}-full"]))
        assert done.returncode == ExitCode.OK, done.stderr
        assert f"resumed from step-{start:08d}-full at step {start}\n" in done.stdout
        assert_same_state(checkpoints(again)["step-00000010-full"], expected)
    assert run_to_end(twice, "--resume", str(checkpoints(never)["step-00000002-full"])).returncode == ExitCode.OK
    third = toy_run("third", options=options, train=train, checkpoint={"at_end": "full"})
    run_to_end(third, "--resume", str(checkpoints(twice)["step-00000006-full"]))
    assert_same_state(checkpoints(third)["step-00000010-full"], expected)


def test_a_signal_saves_everything_and_the_next_launch_goes_on(toy_run: Make) -> None:
    sections: dict[str, Any] = {"options": {"dropout": 0.3}, "train": {"max_steps": 100_000}}
    run_dir = toy_run(**sections)
    with subprocess.Popen(command_line(run_dir), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "step" not in process.stdout.readline():  # bounded: the process ends by itself, and pytest has a timeout
            pass
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == ExitCode.STOPPED
    saved = complete(run_dir / "checkpoints")
    assert [(found.kind, found.reason) for found in saved] == [("full", "stop")]
    progress = json.loads((saved[0].path / "training.json").read_bytes())["progress"]
    assert progress["step"] == saved[0].step > 0
    config = json.loads((run_dir / "config.json").read_bytes())
    config["train"]["max_steps"] = saved[0].step + 2
    (run_dir / "config.json").write_text(json.dumps(config))
    done = run_to_end(run_dir, "--resume", "latest")
    assert done.returncode == ExitCode.OK
    assert f"step {saved[0].step + 2}/{saved[0].step + 2}" in done.stdout


@pytest.mark.slow
def test_a_signal_at_any_moment_costs_no_bit(toy_run: Make) -> None:
    """SIGTERM, resume, SIGTERM again, resume: in forwards, in evaluations, between steps, or while torch is loading."""
    chance = random.Random()
    sections: dict[str, Any] = {
        "options": {"dropout": 0.3, "batch_norm": True},
        "train": {"global_batch": 3, "micro_batch": 2, "max_steps": 1500, "eval_every": 5},
        "checkpoint": {"every_epoch": True, "at_end": "full"},
    }
    calm, stormy = toy_run("calm", **sections), toy_run("stormy", **sections)
    with subprocess.Popen(command_line(calm), stdout=subprocess.DEVNULL) as undisturbed:
        stopped = []
        more: list[str] = []
        for _ in range(2):
            with subprocess.Popen(command_line(stormy, *more), stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout
                process.stdout.readline()  # the signals are heeded from here on
                time.sleep(chance.uniform(0.0, 0.5))
                process.send_signal(signal.SIGTERM)
                process.stdout.read()
            assert process.returncode == ExitCode.STOPPED
            stopped.append(complete(stormy / "checkpoints")[0])
            more = ["--resume", "latest"]
        done = run_to_end(stormy, *more)
        assert (done.returncode, done.stderr) == (ExitCode.OK, "")
        assert undisturbed.wait(PROCESS_TIMEOUT_S) == ExitCode.OK
    assert [found.reason for found in stopped] == ["stop", "stop"]
    assert stopped[0].step <= stopped[1].step < 1500
    last = "step-00001500-full"
    assert_same_state(checkpoints(stormy)[last], checkpoints(calm)[last])


def test_what_lies_in_a_checkpoint_is_never_executed(toy_run: Make, tmp_path: Path) -> None:
    run_dir = toy_run(train={"max_steps": 2}, checkpoint={"every_steps": 1, "keep_last": 9, "at_end": "full"})
    run_to_end(run_dir)
    newest, trap = checkpoints(run_dir)["step-00000002-full"], tmp_path / "executed"
    evil = pickle.dumps(Evil(str(trap)), protocol=0)
    for name in ("optimizer.pt", "pytorch_model.bin", "training_args.bin", "rng_state.pth", "sitecustomize.py"):
        (newest / name).write_bytes(evil)
    done = run_to_end(run_dir, "--resume", newest.name)
    assert "resumed from step-00000002-full at step 2" in done.stdout
    (newest / "training.json").write_bytes(evil)
    done = run_to_end(run_dir, "--resume", newest.name)
    assert "passed over for the one before" in done.stdout
    assert "resumed from step-00000001-full at step 1" in done.stdout
    # Even where the manifest was made to fit.
    manifest = json.loads((newest / MANIFEST).read_bytes())
    hashed = {"size_bytes": len(evil), "sha256": hashlib.sha256(evil).hexdigest()}
    (newest / MANIFEST).write_bytes(seal(manifest | {"files": manifest["files"] | {"training.json": hashed}}))
    done = run_to_end(run_dir, "--resume", newest.name)
    assert done.returncode == ExitCode.FAILED
    assert "training.json cannot be read" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not trap.exists()
    pickle.loads(evil)
    assert trap.exists()  # it would have been


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_a_resume_needs_everything_a_warm_start_only_weights(toy_run: Make) -> None:
    run_dir = toy_run(train={"max_steps": 2}, checkpoint={"every_steps": 1, "at_end": "light"})
    run_to_end(run_dir)
    config = json.loads((run_dir / "config.json").read_bytes())
    config["train"] |= {"max_steps": 4, "learning_rate": 0.02}
    (run_dir / "config.json").write_text(json.dumps(config))
    done = run_to_end(run_dir, "--resume", "step-00000002-light")
    assert done.returncode == ExitCode.USAGE
    assert "it holds weights only" in done.stderr
    done = run_to_end(run_dir, "--warm-start", "step-00000001-full")
    assert done.returncode == ExitCode.OK
    assert "warm start from step-00000001-full at step 1: weights and the position in the data are kept" in done.stdout
    assert "not the same are the optimizer's moments" in done.stdout
    assert "and total_steps, and learning_rate" in done.stdout
    both = run_to_end(run_dir, "--warm-start", "latest", "--resume", "latest")
    assert both.returncode == ExitCode.USAGE


def test_a_light_checkpoint_is_a_warm_start(toy_run: Make) -> None:
    first = toy_run("first", train={"max_steps": 5})
    run_to_end(first)
    second = toy_run("second", train={"max_steps": 8})
    done = run_to_end(second, "--warm-start", str(checkpoints(first)["step-00000005-light"]))
    assert done.returncode == ExitCode.OK
    assert "warm start from step-00000005-light at step 5" in done.stdout
    assert "step 8/8" in done.stdout


def test_other_data_are_refused(toy_run: Make) -> None:
    first = toy_run("first", train={"max_steps": 2})
    run_to_end(first)
    second = toy_run("second", options={"count": 21}, train={"max_steps": 3})
    done = run_to_end(second, "--warm-start", str(checkpoints(first)["step-00000002-light"]))
    assert done.returncode == ExitCode.USAGE
    assert "num_examples and lengths_sha256 differ" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_split_that_was_chosen_survives_unless_the_config_asks_for_another(toy_run: Make) -> None:
    first = toy_run("first", train={"max_steps": 2}, checkpoint={"at_end": "full"})
    run_to_end(first)
    path = checkpoints(first)["step-00000002-full"]
    training = json.loads((path / "training.json").read_bytes())
    assert (training["micro_batch"], training["configured_micro_batch"]) == (4, 4)
    smaller = toy_run("smaller", train={"max_steps": 3, "micro_batch": 1})
    done = run_to_end(smaller, "--resume", str(path))
    assert "1 steps of" not in done.stdout
    assert "3 steps of 1 x 4 = 4" in done.stdout


def test_a_model_that_does_not_fit_says_what_it_needs(toy_run: Make) -> None:
    run_dir = toy_run(options={"width": 512}, device={"kind": "simulated", "capacity": "2MiB"})
    done = run_to_end(run_dir)
    assert done.returncode == ExitCode.OUT_OF_MEMORY
    assert "the model does not fit the device of 2.00 MiB" in done.stderr
    assert "Traceback" not in done.stderr


def test_memory_for_not_one_example_stops_with_a_full_checkpoint(toy_run: Make) -> None:
    """Weights and optimizer state of 6.1 MiB fit, the gradients beside them do not."""
    run_dir = toy_run(options={"width": 512}, device={"kind": "simulated", "capacity": "6400KiB"})
    done = run_to_end(run_dir)
    assert done.returncode == ExitCode.OUT_OF_MEMORY
    assert "alone, of length" in done.stderr
    assert "Traceback" not in done.stderr
    assert set(checkpoints(run_dir)) == {"step-00000000-full"}


def test_a_bug_in_the_users_task_keeps_its_traceback(toy_run: Make) -> None:
    done = run_to_end(toy_run(options={"fail_at_step": 3}))
    assert done.returncode == ExitCode.FAILED
    assert "Traceback" in done.stderr
    assert "a bug in the user's task" in done.stderr


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"task": {"name": "toy_task:nothing"}}, "has no function nothing"),
        ({"task": {"name": "toy_task:SYMBOLS"}}, "has no function SYMBOLS"),
        ({"task": {"name": "toy_task:Toy", "options": {}}}, None),
        ({"data": {"source": "here.csv"}, "task": {"name": "text-classification"}}, "no column 'text'"),
    ],
    ids=["no function", "not a function", "not a task", "no column"],
)
def test_a_mistake_is_one_line(toy_run: Make, tmp_path: Path, sections: dict[str, Any], words: str | None) -> None:
    (tmp_path / "here.csv").write_text("a,b\n1,2\n")
    done = run_to_end(toy_run(**sections))
    if words is None:  # the user's own function fails: that is theirs to see in full
        assert done.returncode == ExitCode.FAILED
        return
    assert done.returncode == ExitCode.USAGE
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_a_config_it_says_so(tmp_path: Path) -> None:
    done = run_to_end(tmp_path)
    assert done.returncode == ExitCode.USAGE
    assert "config.json: cannot be read" in done.stderr
    assert os.sep in done.stderr

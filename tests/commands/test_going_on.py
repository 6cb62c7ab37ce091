"""`memdash run --resume` and `--warm-start`: which run, when it is over, and what its training process is told."""

from __future__ import annotations

import json
import os
import signal

import pytest

from memdash.commands import main
from memdash.errors import ExitCode
from memdash.supervisor.launch import is_supervised
from tests.conftest import wait_until
from tests.test_checkpoints import save


def test_a_run_that_goes_on_is_left_alone(start_run, capsys):
    run = start_run()
    save(run.directory.checkpoints, 3)
    run.wait_for_journal("training fake")
    assert main(["run", "--resume", "fake", "--detach", "--set", "train.max_steps=5"]) == ExitCode.USAGE
    assert "fake is open" in capsys.readouterr().err
    assert not (run.directory.path / "config-0.json").exists()


def test_a_run_without_a_supervisor_that_trains_is_left_alone_too(start_run, capsys):
    run = start_run()
    save(run.directory.checkpoints, 3)
    run.wait_for_journal("training fake")
    wait_until(lambda: run.status() == "running", "the state on disk")
    os.kill(run.supervisor_pid(), signal.SIGKILL)
    wait_until(lambda: not is_supervised(run.directory), "the end of the supervisor")
    assert main(["run", "--resume", "fake", "--detach", "--set", "train.max_steps=5"]) == ExitCode.USAGE
    assert "fake is open" in capsys.readouterr().err
    assert not (run.directory.path / "config-0.json").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--resume", "fake"], "--resume latest"),
        (["--resume", "PATH", "--checkpoint", "step-00000002-full"], "--resume step-00000002-full"),
    ],
)
def test_one_that_was_killed_just_now_goes_on(start_run, capsys, words, told):
    """Its supervisor is still there for some seconds: that is waited for."""
    run = start_run()
    save(run.directory.checkpoints, 2)
    run.order("ssk")
    run.wait_for_end()
    words = [str(run.directory.path) if word == "PATH" else word for word in words]
    assert main(["run", *words, "--detach", "--set", "train.micro_batch=2"]) == ExitCode.OK
    assert capsys.readouterr().out == "fake\n"
    run.wait_for_journal(f"attempt 1 started: {told}")
    assert json.loads((run.directory.path / "config.json").read_bytes())["train"]["micro_batch"] == 2
    assert (run.directory.path / "config-0.json").read_bytes() == b"{}"
    run.order("se")
    assert run.wait_for_end().attempt == 1


@pytest.mark.parametrize("change", ["run.seed=4", "run.name=other", "data.max_length=4", "train.global_batch=8"])
def test_what_a_run_is_cannot_change(start_run, capsys, change):
    run = start_run()
    save(run.directory.checkpoints, 2)
    run.order("sk")
    run.wait_for_end()
    assert main(["run", "--resume", "fake", "--detach", "--set", change]) == ExitCode.USAGE
    assert "cannot change within a run" in capsys.readouterr().err
    assert run.directory.state().attempt == 0


def test_nothing_is_left_of_a_finished_run_unless_more_is_asked_for(start_run, capsys):
    run = start_run("--total-steps", "2")
    save(run.directory.checkpoints, 2)
    run.order("sse")
    assert run.wait_for_end().status == "finished"
    for words in (
        ["--resume", "fake"],
        ["--warm-start", "fake"],
        ["--resume", "fake", "--checkpoint", "step-00000002-full"],
    ):
        assert main(["run", *words, "--detach"]) == ExitCode.OK
        assert "all 2 steps are trained, and nothing is left to do" in capsys.readouterr().out
    assert run.directory.state().attempt == 0
    assert main(["run", "--resume", "fake", "--dry-run", "--set", "train.max_steps=4"]) == ExitCode.OK
    assert capsys.readouterr().out == "one more attempt of fake: --resume latest\n"
    assert (run.directory.path / "config.json").read_bytes() == b"{}"

"""`memdash run -- COMMAND`: a script with a Session is controlled, a program without one is watched, ended and told apart."""

from __future__ import annotations

import asyncio
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memdash import wire
from memdash.client import Client, new_command_id
from memdash.commands import main
from memdash.errors import ExitCode
from memdash.store.journal import read_journal
from memdash.store.run_directory import RunDirectory, find_run
from memdash.supervisor.run_state import outcome_exit_code
from tests.conftest import wait_until
from tests.programs import fake_rank
from tests.supervised import end_what_is_left

WITHOUT = "this program has not made a memdash.Session"
SAYS_ITS_ATTEMPT = "echo attempt $MEMDASH_ATTEMPT in $PWD; exit $((3 - 3 * MEMDASH_ATTEMPT))"


class Own:
    """A run that was started by the verb."""

    def __init__(self, directory: RunDirectory, fifo: Path) -> None:
        self.directory = directory
        self._orders = os.open(fifo, os.O_RDWR) if fifo.exists() else -1

    def order(self, orders: str) -> None:
        os.write(self._orders, orders.encode())

    def state(self) -> wire.RunState:
        state = self.directory.state()
        assert state is not None
        return state

    def until(self, wanted: Callable[[wire.RunState], object], what: str) -> wire.RunState:
        wait_until(lambda: wanted(self.state()), f"{what}; {self.state().status}: {self.journal()}")
        return self.state()

    def journal(self) -> list[str]:
        return [f"{entry.kind}: {entry.text}" for entry in read_journal(self.directory.journal)]

    def ask(self, command: wire.Command) -> wire.CommandResult:
        async def ask() -> wire.CommandResult:
            client = await Client.connect(self.directory.run_id, follow=False)
            try:
                return await client.request(command, timeout_s=20)
            finally:
                await client.close()

        return asyncio.run(ask())


@pytest.fixture
def run_command(tmp_path: Path) -> Iterator[Callable[..., Own]]:
    """Starts a command, detached, and kills what is left of it."""
    runs: list[Own] = []
    fifo = tmp_path / "orders"

    def run(*argv: str) -> Own:
        assert main(["run", "--detach", *argv]) == ExitCode.OK
        runs.append(Own(find_run(), fifo))
        return runs[-1]

    yield run
    for each in runs:
        end_what_is_left(each.directory)


def test_a_script_with_a_session_is_paused_and_stopped(run_command, tmp_path):
    os.mkfifo(tmp_path / "orders")
    run = run_command("--set", "on_failure.restart=1", "--", *fake_rank.command(tmp_path / "orders"))
    run.until(lambda state: state.status == "running", "a session")
    assert run.ask(wire.Pause(command_id=new_command_id())).text == "paused at step 0"
    assert run.until(lambda state: state.status == "paused", "a pause").linked
    assert run.ask(wire.Resume(command_id=new_command_id())).ok
    run.order("sO")  # out of memory: the next attempt is told to begin with half the micro-batch
    state = run.until(lambda state: state.attempt == 1 and state.status == "running", "another attempt")
    assert (state.micro_batch, state.grad_accum_steps) == (8, 2)
    assert not any("--micro-batch" in line for line in run.journal())  # it has no arguments but its own
    stopped = run.ask(wire.Stop(command_id=new_command_id(), save="full"))
    assert (stopped.ok, stopped.text) == (True, "stopped after step 0; full checkpoint of 1.00 MiB")
    state = run.until(lambda state: state.status in wire.FINAL_STATUSES, "its end")
    assert (state.status, outcome_exit_code(state)) == ("stopped", ExitCode.STOPPED)


def test_a_program_that_is_gone_is_not_started_again(run_command, tmp_path):
    os.mkfifo(tmp_path / "orders")
    program = tmp_path / "train"
    program.write_text(f"#!/bin/sh\nexec {shlex.join(fake_rank.command(tmp_path / 'orders'))}\n")
    program.chmod(0o700)
    run = run_command("--set", "on_failure.restart=2", "--", str(program))
    run.until(lambda state: state.status == "running", "a session")
    program.unlink()
    run.order("sx")
    state = run.until(lambda state: state.status in wire.FINAL_STATUSES, "its end")
    assert (state.status, state.attempt) == ("failed", 0)
    assert state.status_reason == "ZeroDivisionError: as the test asked"
    assert any("not restarted: " in line and "cannot be started" in line for line in run.journal())


def test_a_program_without_a_session_is_watched_and_stopped(run_command, capsys):
    run = run_command("--", "sh", "-c", "echo here I am; exec sleep 600")
    capsys.readouterr()
    assert run.state().status == "starting"
    state = run.until(lambda state: state.status == "running", "that nothing is waited for")
    assert any("no memdash.Session so far" in line for line in run.journal())
    assert state.host is not None
    assert state.host.process_bytes > 0
    assert run.directory.output.read_text() == "here I am\n"
    paused = run.ask(wire.Pause(command_id=new_command_id()))
    assert (paused.ok, paused.text) == (False, WITHOUT)
    for path in (run.directory.path, *run.directory.path.rglob("*.json")):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path  # what is on the command line may be secret
    assert main(["stop"]) == ExitCode.OK
    assert "was asked to end by SIGTERM" in capsys.readouterr().out
    state = run.until(lambda state: state.status in wire.FINAL_STATUSES, "its end")
    assert (state.status, state.status_reason) == ("stopped", "ended by SIGTERM after a stop request")
    assert outcome_exit_code(state) == ExitCode.STOPPED
    assert main(["ls"]) == ExitCode.OK
    assert "stopped                  - " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("kill -9 $$", ExitCode.KILLED, "killed by SIGKILL"),
        ("exit 2", ExitCode.FAILED, "failed: exit code 2"),
        ("exit 0", ExitCode.OK, "finished; "),
    ],
)
def test_how_a_program_ended(script, code, said):
    done = subprocess.run(
        [sys.executable, "-m", "memdash", "run", "--headless", "--", "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr


def test_one_more_attempt_of_the_same_command(run_command, tmp_path, capsys):
    config = tmp_path / "own.toml"
    config.write_text(f'[run]\nname = "own"\ncommand = ["sh", "-c", "{SAYS_ITS_ATTEMPT}"]\n')
    run = run_command(str(config))
    run.until(lambda state: state.status == "failed", "its failure")
    assert main(["run", "--warm-start", "own"]) == ExitCode.USAGE
    assert "is for memdash's own runner" in capsys.readouterr().err
    assert main(["run", "--resume", "own", "--detach", "--set", "budget.wall=1h"]) == ExitCode.OK
    run.until(lambda state: state.status == "finished", "the end of the second")
    assert run.directory.output.read_text() == f"attempt 0 in {tmp_path}\nattempt 1 in {tmp_path}\n"
    assert run.directory.record().wall_s == 3600
    capsys.readouterr()
    assert main(["run", "--resume", "own"]) == ExitCode.OK
    assert "is finished: its program has ended by itself" in capsys.readouterr().out

"""memdash replay as a person uses it, on a run that real processes have recorded; and what a supervisor says to its keys."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from memdash import wire
from memdash.client import Client, new_command_id
from memdash.supervisor.launch import dismiss_supervisor
from tests.conftest import WAIT_S
from tests.integration.test_the_real_thing_in_tmux import Terminal, memdash


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    terminal = Terminal(Path(os.environ["MEMDASH_RUNTIME_DIR"]), 100, 30)
    terminal.wait_for = partial(terminal.wait_for, timeout_s=WAIT_S)
    yield terminal
    terminal("kill-server")


def test_in_a_terminal(start_run, terminal):
    run = start_run(run_id="taped")
    run.wait_for_journal("training fake")
    run.order("s" * 30 + "o" + "s" * 30 + "f" + "e")
    run.wait_for_end()
    assert dismiss_supervisor(run.directory)
    recorded = {path: path.read_bytes() for path in run.directory.path.glob("*.json*")}

    terminal.type(memdash("replay taped --speed 1"))
    terminal.wait_for(r"taped +REPLAY +● starting")
    terminal.wait_for(r"► x1 ")
    terminal.press("Space")
    terminal.wait_for(r"‖ x1 ")
    terminal.press("n")
    terminal.wait_for(r"out of memory in")
    terminal.press("End")
    terminal.wait_for(r"✓ finished")
    terminal.wait_for(r"step 68/1,000")
    terminal.wait_for(r"x{20}")  # the end of what it printed
    terminal.press("p")
    terminal.wait_for(r"this is a recording")
    terminal.press("Home")
    terminal.wait_for(r"● starting")
    terminal.press(">", "Space")
    terminal.wait_for(r"► x2 ")
    terminal.press("q")
    terminal.wait_for(r"EXIT=0=")
    assert {path: path.read_bytes() for path in run.directory.path.glob("*.json*")} == recorded


async def test_a_supervisor_is_no_player(start_run):
    run = start_run()
    client = await Client.connect(run.run_id, follow=False)
    for command in (
        wire.Seek(command_id=new_command_id(), time_s=1.0),
        wire.SetSpeed(command_id=new_command_id(), speed=2.0),
    ):
        client.send(command)
        answer = await client.receive()
        assert isinstance(answer, wire.CommandResult)
        assert (answer.ok, answer.command_id) == (False, command.command_id)
        assert "memdash replay" in answer.text
    await client.close()

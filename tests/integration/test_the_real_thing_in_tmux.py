"""The product as a person uses it: a real training run, a real terminal, every key that matters."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memdash.store.run_directory import RunDirectory, list_runs
from tests.conftest import wait_until

pytest.importorskip("torch")
pytestmark = [
    pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]

ROOT = Path(__file__).parents[2]
LONG = "--set run.name=real --set train.max_steps=100000 --set train.threads=1 --set train.eval_every=0"
REAL_S = 90.0  # importing torch and training a tokenizer on a busy machine


class Terminal:
    """One tmux session of a server of its own."""

    def __init__(self, home: Path, width: int, height: int) -> None:
        self._tmux = ["tmux", "-S", str(home / "tmux"), "-f", "/dev/null"]
        self("new-session", "-d", "env", "-u", "COLUMNS", "-u", "LINES", "sh")
        self.resize(width, height)

    def __call__(self, *argv: str) -> str:
        done = subprocess.run([*self._tmux, *argv], capture_output=True, text=True, timeout=30, check=True)
        return done.stdout

    def resize(self, width: int, height: int) -> None:
        """As when a person pulls at the window's corner."""
        self("resize-window", "-x", str(width), "-y", str(height))

    def type(self, line: str) -> None:
        """A line for the shell."""
        self("send-keys", "-l", line)
        self("send-keys", "Enter")

    def press(self, *keys: str) -> None:
        """Keys, as tmux names them."""
        self("send-keys", *keys)

    def screen(self) -> str:
        """What a person sees."""
        return self("capture-pane", "-p")

    def wait_for(self, pattern: str, timeout_s: float = REAL_S) -> re.Match[str]:
        """Until the screen shows it."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found[:] = [match] if (match := re.search(pattern, self.screen())) else []
            return bool(found)

        try:
            wait_until(look, pattern, timeout_s)
        except AssertionError:
            raise AssertionError(f"{pattern!r} never came:\n{self.screen()}") from None
        return found[0]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    home = Path(os.environ["MEMDASH_RUNTIME_DIR"])
    terminal = Terminal(home, 120, 40)
    yield terminal
    for run in list_runs():
        for pid in (int(run.lock.read_text() or 0), (run.state() or run).pid if run.state() else 0):
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
    terminal("kill-server")


def memdash(arguments: str) -> str:
    return f"cd {ROOT} && {sys.executable} -m memdash {arguments}; echo EXIT=$?="


def step_of(run: RunDirectory) -> int:
    state = run.state()
    return state.step if state else 0


def shown_step(terminal: Terminal) -> int:
    return int(terminal.wait_for(r"step ([\d,]+)/")[1].replace(",", ""))


def test_a_day_at_the_keyboard(terminal):
    terminal.type(memdash(f"run examples/demo.toml {LONG}"))
    terminal.wait_for(r"running")
    terminal.wait_for(r"step [1-9][\d,]*/100,000")
    run = list_runs()[0]

    terminal.press("p")
    terminal.wait_for(r"● paused")
    held = int(re.findall(r"paused at step (\d+)", run.journal.read_text())[0])
    wait_until(lambda: shown_step(terminal) == held, f"step {held} on the screen")

    terminal.press("b")
    terminal.wait_for(r"16 x 1 = 16 +now")
    terminal.press("4")
    terminal.wait_for(r"16 x 1 -> 4 x 4, global batch stays 16")
    terminal.press("Enter")
    terminal.wait_for(r"split +4 x 4 = 16")

    terminal.press("c")
    terminal.wait_for(r"light @ \d+")
    assert shown_step(terminal) == held  # nothing of this made a step
    weights = list(run.checkpoints.glob("*-light*/model.safetensors"))
    assert len(weights) == 1
    from safetensors import safe_open

    with safe_open(weights[0], framework="pt") as tensors:
        assert len(list(tensors.keys())) > 10

    terminal.press("p")
    wait_until(lambda: shown_step(terminal) > held, "steps after the pause")

    terminal.press("q")
    terminal.wait_for(r"goes on")
    terminal.wait_for(r"EXIT=0=")
    before = step_of(run)
    wait_until(lambda: step_of(run) > before, "steps without a dashboard", REAL_S)

    terminal.type(f"clear; {memdash('attach')}")
    terminal.wait_for(r"● running")
    terminal.wait_for(r"resumed after step")  # the journal of the time before
    terminal.press("s")
    terminal.wait_for(r"save a full checkpoint, then stop")
    terminal.press("Enter")
    terminal.wait_for(r"■ stopped")
    terminal.press("q")
    terminal.wait_for(r"EXIT=10=")
    assert list(run.checkpoints.glob("*-full*/manifest.json"))


def test_kill_9_of_the_dashboard_costs_no_step(terminal):
    terminal.type(memdash(f"run examples/demo.toml {LONG}"))
    terminal.wait_for(r"step [1-9][\d,]*/100,000")
    run = list_runs()[0]
    dashboard = int(
        subprocess.run(
            ["pgrep", "-f", "memdash run examples/demo.toml --set run.name=real"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()[-1]
    )
    os.kill(dashboard, signal.SIGKILL)
    before = step_of(run)
    wait_until(lambda: step_of(run) > before, "steps after the kill", REAL_S)
    assert run.state().dropped_samples == 0
    terminal.wait_for(r"EXIT=137=")
    terminal.press("C-j")  # the terminal is as the dead dashboard left it: Enter does nothing there
    terminal("send-keys", "-l", "stty sane; clear")
    terminal.press("C-j")
    terminal.type(memdash("attach real"))
    terminal.wait_for(r"● running")
    terminal.wait_for(r"training BertForMaskedLM")
    terminal.press("s")
    terminal.wait_for(r"stop without saving")
    terminal.press("n")
    terminal.wait_for(r"■ stopped")


def test_it_is_usable_at_80x24(terminal):
    terminal.resize(80, 24)
    terminal.type(memdash(f"run examples/demo.toml {LONG}"))
    terminal.wait_for(r"step [1-9][\d,]*/100,000")
    screen = terminal.screen()
    assert "SIMULATED" in screen.upper()
    assert re.search(r"sim dev +\d+% [\d.]+ [KMG]iB", screen), screen
    terminal.press("s")
    terminal.wait_for(r"stop without saving")
    terminal.press("n")
    terminal.wait_for(r"■ stopped")

"""Commands over a real socket: obeyed between steps, answered once, true to what they say."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from safetensors.torch import load_file

from memdash import wire
from memdash.checkpoints import verify
from memdash.errors import ExitCode
from runner.simulated import cache_dir
from tests.runner.conftest import command_line

Make = Callable[..., Path]
M = TypeVar("M", bound=wire.Message)
WAIT_S = 30.0


class Listener:
    """A supervisor's side of the socket and no more: reads every frame, sends commands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._server.settimeout(WAIT_S)
        self._frames = wire.FrameBuffer()
        self._waiting: list[wire.Message] = []
        self.seen: list[wire.Message] = []

    def accept(self) -> None:
        self._connection, _ = self._server.accept()
        self._connection.settimeout(WAIT_S)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        hello = self.wait_for(wire.Hello)
        refused = {name: reason for name, reason in hello.capabilities.items() if reason}
        assert refused == {
            "DumpMemorySnapshot": "torch makes memory snapshots of CUDA devices only, not of the simulated device"
        }
        self.welcome()

    def welcome(self) -> None:
        welcome = wire.Welcome(protocol_version=wire.PROTOCOL_VERSION, run_id="r", attempt=0, pid=os.getpid())
        self._connection.sendall(wire.encode(welcome))

    def next(self) -> wire.Message:
        while not self._waiting:
            data = self._connection.recv(1 << 16)
            assert data, "the runner hung up"
            self._waiting += [wire.decode(wire.from_rank, frame) for frame in self._frames.feed(data)]
        message = self._waiting.pop(0)
        self.seen.append(message)
        return message

    def wait_for(self, kind: type[M], where: Callable[[M], bool] = lambda _message: True) -> M:
        while True:
            message = self.next()
            if isinstance(message, kind) and where(message):
                return message

    def ask(self, command: wire.Message) -> wire.Ack:
        self._connection.sendall(wire.encode(command))
        return self.wait_for(wire.Ack, lambda ack: ack.command_id == command.command_id)  # type: ignore[attr-defined]

    def close(self) -> None:
        self._connection.close()
        self._server.close()


@pytest.fixture
def rank(toy_run: Make, home: Path) -> Iterator[tuple[Listener, subprocess.Popen[bytes], Path]]:
    """A training process that would go on for ever, and the listener that it is linked to."""
    device = {"kind": "simulated", "capacity": "64MiB"}
    run_dir = toy_run(device=device, train={"max_steps": 10_000_000, "global_batch": 8, "eval_every": 40})
    listener = Listener(Path(os.environ["MEMDASH_RUNTIME_DIR"]) / "s")
    environment = {"MEMDASH_SOCKET": str(listener.path), "MEMDASH_RUN_ID": "r", "MEMDASH_ATTEMPT": "0"}
    environment |= {"XDG_CACHE_HOME": str(cache_dir().parent)}
    process = subprocess.Popen(command_line(run_dir), env=os.environ | environment, stdout=subprocess.DEVNULL)
    try:
        listener.accept()
        yield listener, process, run_dir
    finally:
        process.kill()
        process.wait()
        listener.close()


def test_every_command_over_a_real_socket(rank: tuple[Listener, subprocess.Popen[bytes], Path]) -> None:
    listener, process, run_dir = rank
    started = listener.wait_for(wire.TrainingStarted)
    assert (started.global_batch, started.micro_batch, started.steps_per_epoch) == (8, 8, 3)
    assert (started.task, started.item_name, started.num_examples) == ("toy", "tokens", 20)
    first = listener.wait_for(wire.StepReport)
    assert first.memory is not None
    assert (first.memory.kind, first.memory.capacity_bytes) == ("simulated", 64 << 20)
    assert 0 < (first.memory.allocated_bytes or 0) <= (first.memory.peak_allocated_bytes or 0)

    # A split: every step after the one it names is cut so.
    ack = listener.ask(wire.SetBatchSplit(command_id="1", micro_batch=3))
    assert (ack.error, ack.result) == ("", "3+3+2 = 8")
    after = listener.wait_for(wire.StepReport)
    assert (after.step, after.micro_batch, after.grad_accum_steps) == (ack.applied_at_step + 1, 3, 3)
    ack = listener.ask(wire.SetBatchSplit(command_id="2", micro_batch=9))
    assert "not between 1 and 8" in ack.error
    assert listener.ask(wire.SetBatchSplit(command_id="3", micro_batch=4)).result == "4 x 2 = 8"

    # A pause: no step until the resume, and everything else is still obeyed.
    paused = listener.ask(wire.Pause(command_id="4"))
    light = listener.ask(wire.SaveCheckpoint(command_id="5", kind="light"))
    full = listener.ask(wire.SaveCheckpoint(command_id="6", kind="full"))
    emptied = listener.ask(wire.EmptyCache(command_id="7"))
    assert light.applied_at_step == full.applied_at_step == emptied.applied_at_step == paused.applied_at_step
    assert emptied.result.startswith("gave back ")
    refused = listener.ask(wire.DumpMemorySnapshot(command_id="7b"))
    assert refused.error == "torch makes memory snapshots of CUDA devices only, not of the simulated device"
    resumed = listener.ask(wire.Resume(command_id="8"))
    between = listener.seen[next(i for i, m in enumerate(listener.seen) if m == paused) :]
    assert not [m for m in between if isinstance(m, wire.StepReport)]
    assert listener.wait_for(wire.StepReport).step == resumed.applied_at_step + 1

    # The checkpoints are what was said.
    saved = [m for m in listener.seen if isinstance(m, wire.CheckpointSaved)]
    assert [message.kind for message in saved] == ["light", "full"]
    assert light.result.startswith("light checkpoint of ")
    assert light.result.endswith(f"checkpoints/{Path(saved[0].path).name}")
    assert "embed.weight" in load_file(Path(saved[0].path) / "model.safetensors")
    assert all(verify(Path(message.path)).step == paused.applied_at_step for message in saved)

    # A stop, after a full checkpoint.
    stopped = listener.ask(wire.Stop(command_id="9", save="full"))
    assert f"stopped after step {stopped.applied_at_step}; full checkpoint of" in stopped.result
    goodbye = listener.wait_for(wire.Goodbye)
    assert (goodbye.outcome, goodbye.step) == ("stopped", stopped.applied_at_step)
    assert process.wait(WAIT_S) == ExitCode.STOPPED
    steps = [m.step for m in listener.seen if isinstance(m, wire.StepReport)]
    assert steps == list(range(1, steps[-1] + 1))


def test_a_pause_holds_in_an_evaluation_too(rank: tuple[Listener, subprocess.Popen[bytes], Path]) -> None:
    listener, _, _ = rank
    listener.wait_for(wire.EvaluationReport)
    ack = listener.ask(wire.Pause(command_id="1"))
    assert ack.result == f"paused at step {ack.applied_at_step}"
    saved = listener.ask(wire.SaveCheckpoint(command_id="2", kind="full"))
    assert saved.error == ""
    assert listener.ask(wire.Resume(command_id="3")).error == ""
    listener.wait_for(wire.StepReport, lambda report: report.step == ack.applied_at_step + 1)


def test_last_words_of_a_run_that_cannot_start(toy_run: Make, home: Path) -> None:
    run_dir = toy_run(task={"name": "toy_task:nothing"})
    listener = Listener(Path(os.environ["MEMDASH_RUNTIME_DIR"]) / "s")
    environment = os.environ | {"MEMDASH_SOCKET": str(listener.path), "MEMDASH_RUN_ID": "r"}
    with subprocess.Popen(command_line(run_dir), env=environment, stderr=subprocess.DEVNULL) as process:
        listener._connection, _ = listener._server.accept()
        listener._connection.settimeout(WAIT_S)
        listener.welcome()
        goodbye = listener.wait_for(wire.Goodbye)
        assert process.wait(WAIT_S) == ExitCode.USAGE
    listener.close()
    assert goodbye.outcome == "failed"
    assert "has no function nothing" in goodbye.reason

"""A run of two minutes, told by the supervisor's own telemetry."""

from __future__ import annotations

import math

import pytest

from memdash import wire
from memdash.locations import runs_dir
from memdash.store.recorder import Recorder
from memdash.store.run_directory import RunDirectory, RunRecord, create_run
from memdash.supervisor import telemetry as telemetry_module
from memdash.supervisor.events import CommandAccepted, LinkChanged, RankExited, RankStarted
from memdash.supervisor.keeping import Keeper
from memdash.supervisor.telemetry import Telemetry
from tests.tui import scenes

T0 = scenes.T0
SECONDS = 120


class Clock:
    """The supervisor's."""

    def __init__(self) -> None:
        self.now_s = T0

    def time(self) -> float:
        return self.now_s


class Recorded:
    """A run as it was told, and the state as it was each time."""

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.states: list[tuple[float, wire.RunState]] = []


def new_run(run_id: str, world_size: int = 1) -> RunDirectory:
    record = RunRecord(run_id=run_id, name=run_id, created_s=T0, argv=["true"], cwd="/", world_size=world_size)
    return create_run(record, config_json=b"{}", config_toml="", parent=runs_dir())


@pytest.fixture
def recorded(monkeypatch) -> Recorded:
    """Two minutes: steps, a pause, an OOM, a checkpoint, the end."""
    clock = Clock()
    monkeypatch.setattr(telemetry_module, "time", clock)
    run = Recorded(new_run("told"))
    recorder = Recorder(run.directory)
    first = wire.RunState(run_id="told", name="told", created_s=T0, run_dir=str(run.directory.path))
    telemetry = Telemetry(first, recorder, Keeper(run.directory).history)
    step = 0
    for tick in range(2 * SECONDS):
        clock.now_s = T0 + tick / 2
        at_s = tick / 2
        for event in _events(at_s, step):
            if isinstance(event, wire.Message):
                telemetry.receive(event)
            else:
                telemetry.advance(event)
        if at_s >= 10 and not 60 <= at_s < 70:
            step += 1
            memory = scenes.device(150, 200 + step % 7, 400)
            loss = 9 * math.exp(-step / 100) + step % 3
            telemetry.receive(scenes.step(at_s, step, memory, loss=loss, seq=step, step_time_s=0.4 + step % 5 / 50))
        telemetry.host(scenes.host_sample(at_s, 2 + at_s / 100))
        telemetry.tick(clock.now_s)
        run.states.append((clock.now_s, telemetry.state))
    clock.now_s = T0 + SECONDS
    telemetry.receive(wire.Goodbye(rank=0, time_s=clock.now_s, step=step, outcome="finished"))
    telemetry.advance(RankExited(time_s=clock.now_s, exit_code=0))
    run.states.append((clock.now_s, telemetry.state))
    run.directory.output.write_text("epoch 1\nepoch 2\nthe last line\n")
    recorder.output(T0 + 30, 0, 8)
    recorder.output(T0 + 80, 0, 16)
    recorder.close()
    return run


def _events(at_s: float, step: int) -> list[object]:
    now_s = T0 + at_s
    return {
        1.0: [RankStarted(time_s=now_s, pid=7), LinkChanged(linked=True, capabilities=scenes.CAPABLE)],
        9.0: [
            wire.TrainingStarted(
                rank=0,
                time_s=now_s,
                start_step=0,
                total_steps=220,
                steps_per_epoch=100,
                num_examples=1600,
                global_batch=16,
                micro_batch=8,
                model="bert",
                device="simulated",
            )
        ],
        40.0: [
            wire.OomReport(
                rank=0,
                time_s=now_s,
                step=step,
                where="forward/backward",
                micro_batch=16,
                next_micro_batch=8,
                message="out of memory",
            )
        ],
        60.0: [
            CommandAccepted(wire.Pause(command_id="p")),
            wire.PhaseChanged(rank=0, time_s=now_s, step=step, phase="paused"),
        ],
        70.0: [wire.PhaseChanged(rank=0, time_s=now_s, step=step, phase="training")],
        90.0: [
            wire.CheckpointSaved(
                rank=0, time_s=now_s, step=step, kind="full", path="/x/step-1-full", size_bytes=5, duration_s=0.1
            )
        ],
    }.get(at_s, [])

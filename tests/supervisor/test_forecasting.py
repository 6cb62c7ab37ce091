"""The forecast in the supervisor: levels are journaled once, and a new supervisor knows what the one before has seen."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from memdash import wire
from memdash.store.journal import read_journal
from memdash.store.recorder import Recorder
from memdash.store.run_directory import RunDirectory
from memdash.supervisor.forecasting import Forecasting
from memdash.supervisor.history import History
from memdash.supervisor.telemetry import Telemetry

MIB = 1 << 20
NOW = time.time()


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    (tmp_path / "samples").mkdir()
    (tmp_path / "checkpoints").mkdir()
    return RunDirectory(tmp_path)


def telemetry(directory: RunDirectory) -> Telemetry:
    state = wire.RunState(
        run_id="r", name="r", status="running", phase="training", started_s=NOW, total_steps=10_000, step_time_s=0.5
    )
    return Telemetry(state, Recorder(directory), History())


def host(seconds: float, growth: float = 1.0) -> wire.HostSample:
    used = int((500 + growth * seconds) * MIB)
    memory = wire.HostMemory(
        kind="exact",
        process_bytes=used,
        num_processes=1,
        working_set_bytes=used,
        peak_working_set_bytes=used,
        capacity_bytes=1024 * MIB,
        capacity_source="memory.max",
    )
    return wire.HostSample(time_s=NOW + seconds, host=memory)


def forecasts(directory: RunDirectory) -> list[str]:
    return [entry.text.partition(":")[0] for entry in read_journal(directory.journal) if entry.kind == "forecast"]


def leak(observed: Telemetry, forecasting: Forecasting, seconds: int) -> None:
    for half in range(2 * seconds):
        observed.host(host(half / 2))
        forecasting.tick(NOW + half / 2)


def test_each_level_is_journaled_once(directory):
    observed = telemetry(directory)
    forecasting = Forecasting(observed, 0.0, directory)
    leak(observed, forecasting, 490)
    assert observed.state.forecast.level == "critical"
    assert forecasts(directory) == ["watch", "warning", "critical"]


def test_a_new_supervisor_goes_on_where_the_one_before_was_killed(directory):
    before = telemetry(directory)
    leak(before, Forecasting(before, 0.0, directory), 300)
    after = telemetry(directory)
    forecasting = Forecasting(after, 0.0, directory)
    forecasting.catch_up()
    after.host(host(300))
    forecasting.tick(NOW + 300)
    (outlook,) = after.state.forecast.outlooks
    assert outlook.level == before.state.forecast.level
    assert outlook.in_s == pytest.approx(224, rel=0.1)


def test_another_attempt_is_forecast_anew(directory):
    observed = telemetry(directory)
    forecasting = Forecasting(observed, 0.0, directory)
    leak(observed, forecasting, 300)
    assert observed.state.forecast.outlooks
    observed.state = wire.msgspec.structs.replace(observed.state, attempt=1, started_s=NOW + 300)
    observed.host(host(301))
    forecasting.tick(NOW + 302)
    assert observed.state.forecast.outlooks == []


def test_a_run_that_is_over_is_not_forecast(directory):
    observed = telemetry(directory)
    forecasting = Forecasting(observed, 0.0, directory)
    observed.state = wire.msgspec.structs.replace(observed.state, status="finished")
    forecasting.tick(NOW)
    assert observed.state.forecast is None


def test_a_disk_that_holds_no_further_checkpoint(directory):
    observed = telemetry(directory)
    forecasting = Forecasting(observed, 0.0, directory)

    def save(size_bytes: int) -> None:
        saved = wire.CheckpointSaved(
            rank=0, time_s=NOW, step=5, kind="full", path="x", size_bytes=size_bytes, duration_s=1.0
        )
        observed.receive(saved)

    save(1000)
    forecasting.tick(NOW + 1)
    assert observed.state.forecast.level == "ok"
    save(1 << 60)
    forecasting.tick(NOW + 3)
    (outlook,) = observed.state.forecast.outlooks
    assert (outlook.where, outlook.level) == ("disk", "warning")
    assert "the next full checkpoint will not fit on the disk" in outlook.text


def test_it_goes_on_when_the_clock_is_put_back(directory):
    observed = telemetry(directory)
    forecasting = Forecasting(observed, 0.0, directory)
    forecasting.tick(NOW)
    forecasting.tick(NOW - 3600)
    assert observed.state.forecast is not None
    assert observed.state.forecast.time_s == NOW - 3600
    forecasting.tick(NOW - 3599.5)
    assert observed.state.forecast.time_s == NOW - 3600  # once a second, as ever

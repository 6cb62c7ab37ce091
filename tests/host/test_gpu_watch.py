"""A driver that hangs, loses a GPU or is not there costs whoever watches nothing but the figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from memdash.host.gpu_watch import NO_ANSWER, SLOWEST_PERIOD_S, STALE_S, GpuLook, aged, pause_s
from memdash.wire import GpuReading
from tests.conftest import WAIT_S, wait_until
from tests.nvml_standin import play

ROOT = Path(__file__).parents[2]
BEAT_LIMIT_S = 0.5  # of a loop that does nothing, on a machine that does much else


class Watching:
    """A process that watches, and what it says."""

    def __init__(self, library: Path, scenario: Path, settings: tuple[str, ...]) -> None:
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(library),
            "NVML_STANDIN": str(scenario),
            "NVML_STANDIN_LOG": str(scenario.with_suffix(".log")),
        }
        command = [sys.executable, "-m", "tests.programs.watches_gpus", *settings]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, env=environment, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        self.looks: list[dict] = []

    def until(self, wanted: Callable[[dict], bool]) -> dict:
        """The first look that is as wanted."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            self.looks.append(json.loads(self.process.stdout.readline()))
            if wanted(self.looks[-1]):
                return self.looks[-1]
        raise AssertionError(f"saw {self.looks}")


@pytest.fixture
def scenario(tmp_path):
    """The file that the driver plays from; the log of its calls lies beside it."""
    path = tmp_path / "scenario"
    play(path, "gpus=2")
    return path


@pytest.fixture
def watching(drivers, scenario, tmp_path):
    """Starts processes that watch, and kills what is left of them."""
    started = []

    def start(*settings: str, driver: str = "new") -> Watching:
        started.append(Watching(drivers.get(driver, tmp_path), scenario, settings))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.__exit__(None, None, None)  # closes the pipes and waits


def test_a_call_that_hangs_and_comes_back_stalls_nobody(watching, scenario):
    watch = watching("STALE_S=0.3", "PERIOD_S=0.05")
    watch.until(lambda look: look["kinds"] == ["exact", "exact"])
    play(scenario, "gpus=2 hang_ms=2000")
    stale = watch.until(lambda look: look["kinds"] == ["unavailable"] * 2)
    assert stale["reasons"] == [NO_ANSWER] * 2
    play(scenario, "gpus=2")
    back = watch.until(lambda look: look["kinds"] == ["exact"] * 2)
    assert back["longest_s"] < BEAT_LIMIT_S
    assert back["reasons"] == ["", ""]


def test_a_call_that_never_comes_back_does_not_keep_the_process(watching, scenario):
    play(scenario, "hang_ms=600000")
    watch = watching("STALE_S=0.2")
    never = watch.until(lambda look: look["reason"])
    assert (never["kinds"], never["reason"]) == ([], NO_ANSWER)
    watch.process.stdin.close()
    assert watch.process.wait(timeout=5) == 0


@pytest.mark.parametrize(
    ("code", "why"), [(15, "the driver has lost this GPU (GPU is lost)"), (999, "memory: Unknown Error")]
)
def test_a_gpu_falls_off_the_bus_and_is_found_again(watching, scenario, code, why):
    watch = watching("RETRY_S=0.2", "PERIOD_S=0.02")
    watch.until(lambda look: look["kinds"] == ["exact", "exact"])
    play(scenario, f"gpus=2 lost=0 lost_code={code}")
    lost = watch.until(lambda look: "unavailable" in look["kinds"])
    assert lost["kinds"] == ["unavailable", "exact"]
    assert lost["reasons"] == [why, ""]
    play(scenario, "gpus=2")
    watch.until(lambda look: look["kinds"] == ["exact", "exact"])


def test_a_lost_gpu_is_asked_rarely(watching, scenario):
    play(scenario, "lost=0")
    log = scenario.with_suffix(".log")
    watch = watching("PERIOD_S=0.01")
    watch.until(lambda look: look["kinds"] == ["unavailable"])
    for _ in range(20):
        watch.until(lambda look: True)
    assert log.read_text() == "IH"  # looked for once, and no figure asked of what was not found


def test_a_driver_that_starts_late(watching, scenario):
    play(scenario, "init=9")
    watch = watching("RETRY_S=0.05", "PERIOD_S=0.02")
    watch.until(lambda look: look["reason"] == "the NVIDIA driver is installed but not loaded")
    play(scenario, "gpus=1")
    watch.until(lambda look: look["kinds"] == ["exact"] and not look["reason"])


def test_without_a_driver_one_look_is_the_last(watching):
    watch = watching(driver="absent")
    assert watch.until(lambda look: look["final"])["reason"] == "no NVIDIA driver"


def test_processes_are_listed_far_less_often_than_memory_is_read(watching, scenario):
    play(scenario, f"procs=0/{os.getpid()}/4096")
    log = scenario.with_suffix(".log")
    watching("PERIOD_S=0.02")
    wait_until(lambda: log.exists() and log.read_text().count("M") >= 20, "20 readings of memory")
    assert log.read_text().count("P") == 1


@pytest.mark.parametrize(("took_s", "pause"), [(0.001, 0.5), (0.04, 0.8), (2.0, SLOWEST_PERIOD_S)])
def test_a_slow_driver_is_left_in_peace(took_s, pause):
    assert pause_s(took_s) == pause


GPU = GpuReading(index=1, cuda_index=0, uuid="GPU-1", name="A100", kind="exact", total_bytes=9, used_bytes=4)
LOST = GpuReading(
    index=1, cuda_index=0, uuid="GPU-1", name="A100", kind="unavailable", reason=NO_ANSWER
)  # what stays true of it


@pytest.mark.parametrize(
    ("look", "age_s", "gpus", "reason"),
    [
        (GpuLook(0.0, (GPU,)), STALE_S, (GPU,), ""),
        (GpuLook(0.0, (GPU,)), STALE_S + 1, (LOST,), ""),
        (GpuLook(0.0), STALE_S, (), ""),
        (GpuLook(0.0), STALE_S + 1, (), NO_ANSWER),
        (GpuLook(0.0, reason="not loaded"), 1e6, (), "not loaded"),
        (GpuLook(0.0, reason="no driver", final=True), 1e6, (), "no driver"),
    ],
    ids=["young", "old", "first not yet read", "never read", "does not start", "final"],
)
def test_what_an_old_reading_still_says(look, age_s, gpus, reason):
    shown = aged(look, age_s)
    assert (shown.gpus, shown.reason) == (gpus, reason)

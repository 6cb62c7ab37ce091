"""A real DataLoader whose worker the kernel takes, and one that fills a small /dev/shm."""

from __future__ import annotations

import sys

import pytest

from memdash.errors import ExitCode
from memdash.supervisor.run_state import outcome_exit_code
from tests.cgroups import with_small_shm

pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def script(mode: str) -> list[str]:
    return [sys.executable, "-m", "tests.programs.loads_data", mode]


@pytest.fixture(autouse=True)
def _from_here(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))


def test_the_kernel_takes_a_worker(memory_cgroup, start_run):
    cgroup = memory_cgroup(900 << 20)
    run = start_run(argv=script("grow"), inside=cgroup.inside)
    state = run.wait_for_end(90)
    assert (state.status, state.oom_killed, state.worker_killed) == ("killed", True, True), state.status_reason
    assert state.status_reason.startswith("the kernel's OOM killer took a DataLoader worker (pid ")
    assert f"cgroup {cgroup.level.name} reached its limit of 900 MiB" in state.status_reason
    assert state.exit_code == 1
    assert outcome_exit_code(state) == ExitCode.HOST_OOM


def test_a_full_dev_shm(start_run):
    run = start_run(argv=script("fill"), inside=lambda *argv: with_small_shm("64m", *argv))
    state = run.wait_for_end(90)
    assert (state.status, state.exit_code) == ("failed", 1), state.status_reason
    assert state.status_reason.startswith("/dev/shm was full (")
    assert "of 64.0 MiB were seen in use" in state.status_reason
    assert "--shm-size" in state.status_reason

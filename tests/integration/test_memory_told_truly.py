"""A real run in a real memory cgroup: the capacity is the cgroup's, workers count, shared pages once, and no spike is missed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from memdash.store.recorder import recorded_hosts
from tests.conftest import wait_until
from tests.programs.holds_memory import OWN, SHARED, SPIKE, WORKERS

MIB = 1 << 20
LIMIT = 1 << 30
INTERPRETER = 25 * MIB


@pytest.fixture
def held(tmp_path, memory_cgroup, start_run, monkeypatch, request):
    """A run that holds memory with its workers, in a cgroup of 1 GiB."""
    cgroup, folder = memory_cgroup(LIMIT), tmp_path / "flags"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))
    run = start_run(argv=[sys.executable, "-m", "tests.programs.holds_memory", str(folder)], inside=cgroup.inside)
    wait_until(lambda: len(list(folder.glob("ready-*"))) == WORKERS, "the workers")
    yield run, cgroup, folder
    (folder / "stop").touch()
    run.wait_for_end()


def test_the_ledgers_figures_are_those_of_the_cgroup(held):
    run, cgroup, folder = held
    everything = (SHARED + WORKERS * OWN) * MIB

    def settled():
        """The sampler has found the workers and measured what they share."""
        host = run.directory.state().host
        return host and host.num_processes == 1 + WORKERS and host.process_bytes < everything + 4 * INTERPRETER

    wait_until(settled, "a sampler that knows what the workers share", 20)
    host = run.directory.state().host
    assert (host.capacity_bytes, host.capacity_source) == (LIMIT, str(cgroup.level.limit_file))
    assert everything < host.process_bytes < everything + 4 * INTERPRETER
    assert everything < host.working_set_bytes < everything + 6 * INTERPRETER  # the supervisor lives there, too
    assert SHARED * MIB < host.main_process_bytes < SHARED * MIB + INTERPRETER

    before = max(row["peak_working_set_bytes"] for row in recorded_hosts(run.directory))
    (folder / "spike").touch()
    wait_until(lambda: (folder / "spiked").exists(), "the spike")
    rows = lambda: [row["peak_working_set_bytes"] for row in recorded_hosts(run.directory)]  # noqa: E731
    wait_until(lambda: max(rows()) > before + 0.9 * SPIKE * MIB, "the spike in the record")
    assert max(rows()) < before + 1.5 * SPIKE * MIB
    wait_until(lambda: rows()[-1] < before + 0.2 * SPIKE * MIB, "a peak that is told once")


def test_doctor_names_each_limit_and_its_file(memory_cgroup):
    cgroup = memory_cgroup(LIMIT)
    done = subprocess.run(
        cgroup.inside(sys.executable, "-m", "memdash", "doctor"), capture_output=True, text=True, timeout=120
    )
    assert f"({cgroup.level.limit_file})" in done.stdout
    assert "(/proc/meminfo: MemTotal)" in done.stdout
    effective = next(line for line in done.stdout.splitlines() if "effective limit" in line)
    assert "1.00 GiB, headroom" in effective
    assert str(cgroup.level.limit_file) in effective

"""What the kernel's own memory controller says, v1 or v2, of processes in a cgroup made for the test."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memdash.host.capacity import cgroup_levels
from memdash.host.oom_evidence import OomWatch
from memdash.host.oom_kill import find_kill
from memdash.host.pressure import Pressure, PressureTrigger, pressure_file
from memdash.host.sampler import HostSampler
from tests.conftest import wait_until

MIB = 1 << 20
LIMIT = 300 * MIB
PSI = Path("/proc/pressure/memory")
# holds so many MiB; then for each line of input writes that many MiB of a file anew, or takes memory without end
PROGRAM = """
import os, sys
blocks = [bytearray(b"x") * (int(sys.argv[1]) << 20)]
print("up", flush=True)
for line in sys.stdin:
    while line == "grow\\n":
        blocks.append(bytearray(b"x") * (8 << 20))
    with open(sys.argv[2], "wb") as file:
        for _ in range(int(line)):
            file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    print("written", flush=True)
"""


class Writer:
    """A process in a cgroup that holds memory and fills the page cache when told to."""

    def __init__(self, inside, file: Path, hold: int) -> None:
        argv = inside(sys.executable, "-c", PROGRAM, str(hold), str(file))
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "up\n"
        self.pid = self.process.pid

    def write(self, mebibytes: int) -> None:
        self.process.stdin.write(f"{mebibytes}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "written\n"

    def grow_until_killed(self) -> None:
        self.process.communicate("grow\n")
        assert self.process.returncode == -signal.SIGKILL


@pytest.fixture
def writer(tmp_path):
    """Starts writers."""
    started = []

    def start(inside, hold: int = 0) -> Writer:
        started.append(Writer(inside, tmp_path / f"cache-{len(started)}", hold))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.communicate()


@pytest.fixture
def cgroup(memory_cgroup):
    """One with a limit, v1 or v2."""
    return memory_cgroup(LIMIT)


@pytest.fixture
def cousin(cgroup):
    """A command for a second cgroup under the same limit, beside the one in which `cgroup.inside` starts processes."""
    folder = cgroup.level.path / "cousin"
    folder.mkdir()
    yield lambda *argv: [*cgroup.inside()[:3], str(folder), *argv]
    wait_until(lambda: not (folder / "cgroup.procs").read_text(), "an empty cousin")
    folder.rmdir()


@pytest.fixture
def v2_cgroup(cgroup):
    """One that the kernel can slow down."""
    if cgroup.level.version == 1:
        pytest.skip("the memory controller is v1's here: tests/on_cgroup_v2.py brings one")
    return cgroup


@pytest.fixture
def psi():
    """Needs a kernel with pressure stall information."""
    if not PSI.exists():
        pytest.skip("this kernel has no PSI")


def report_of(pid: int):
    host = HostSampler(pid)
    host.sample()
    found = host.report()
    host.close()
    return found


def test_page_cache_is_not_used_memory(cgroup, writer):
    process = writer(cgroup.inside, hold=50)
    before = report_of(process.pid)
    process.write(150)
    after = report_of(process.pid)
    for told in (before, after):
        assert (told.capacity_bytes, told.capacity_source) == (LIMIT, str(cgroup.level.limit_file))
        assert 50 * MIB < told.working_set_bytes < 80 * MIB
    assert before.reclaimable_bytes < 20 * MIB
    assert after.reclaimable_bytes > 140 * MIB
    assert cgroup.level.usage_bytes() > 200 * MIB


def test_cgroups_are_found_whatever_the_process_sees_mounted(cgroup):
    hidden = "umount --lazy --all-targets --recursive /sys; echo up; read _"
    command = ["unshare", "--mount", "sh", "-c", hidden]
    with subprocess.Popen(cgroup.inside(*command), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        if process.stdout.readline() != b"up\n":
            pytest.skip("no mount namespace can be made here")
        found = [level.path for level in cgroup_levels(process.pid)]
        process.communicate()
    assert found[:2] == [cgroup.inner, cgroup.level.path]


def test_cgroups_are_found_in_a_namespace_whose_mount_is_older(cgroup):
    ask = (
        "from memdash.host.capacity import cgroup_levels; print(*(level.path for level in cgroup_levels()), sep='\\n')"
    )
    argv = cgroup.inside("unshare", "--cgroup", sys.executable, "-c", ask)
    found = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    assert found[:2] == [str(cgroup.inner), str(cgroup.level.path)]


def test_what_is_slowed_down_at_memory_high_is_counted(v2_cgroup, writer):
    process = writer(v2_cgroup.inside)
    host = HostSampler(process.pid)
    host.sample()
    assert (host.report().num_throttled, host.report().throttle_bytes) == (0, None)
    (v2_cgroup.level.path / "memory.high").write_text(str(48 * MIB))
    process.write(200)
    told = host.report()
    assert told.num_throttled > 0
    assert told.throttle_bytes == 48 * MIB
    assert (told.stalled_some or 0) > 0 or not PSI.exists()
    assert told.capacity_bytes == LIMIT  # it slows, it does not kill
    host.close()


def test_a_cousin_that_is_slowed_down_is_not_us(v2_cgroup, cousin, writer):
    (v2_cgroup.level.path / "cousin/memory.high").write_text(str(32 * MIB))
    host = HostSampler(writer(v2_cgroup.inside).pid)
    writer(cousin).write(200)
    assert "high 0" not in v2_cgroup.level.events_file.read_text()  # v2 counts it above us, too
    assert host.report().num_throttled == 0
    host.close()


def test_a_kill_is_told_from_the_counters_alone(cgroup, cousin, writer, tmp_path):
    ours = writer(cgroup.inside)
    watch = OomWatch.begin(ours.pid, kmsg=tmp_path / "no log, as in a container")
    writer(cousin).grow_until_killed()
    assert find_kill(watch.evidence(), (ours.pid,)) is None
    ours.grow_until_killed()
    kill = find_kill(watch.evidence(), (ours.pid,))
    assert kill.where == f"cgroup {cgroup.level.name} reached its limit of 300 MiB ({cgroup.level.limit_file})"
    assert (kill.certain, watch.kills()) == (True, 1)


def test_the_kernel_rings_when_a_cgroup_waits_for_memory(v2_cgroup, psi, writer):
    process = writer(v2_cgroup.inside)
    trigger = PressureTrigger(pressure_file(cgroup_levels(process.pid)))
    assert not trigger.fired()
    (v2_cgroup.level.path / "memory.high").write_text(str(24 * MIB))
    wait_until(lambda: process.write(50) or trigger.fired(), "an alarm")
    trigger.close()


def test_pressure_is_that_of_the_cgroup_and_not_of_the_machine(v2_cgroup, psi, writer):
    process = writer(v2_cgroup.inside)
    file = pressure_file(cgroup_levels(process.pid))
    assert file == v2_cgroup.inner / "memory.pressure"
    pressure = Pressure(file)
    pressure.read(time.monotonic())
    process.process.communicate()
    quiet = pressure.read(time.monotonic())
    assert (quiet.some, quiet.full) == (0, 0)

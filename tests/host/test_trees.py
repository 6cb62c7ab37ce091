"""What memdash makes of directory trees captured from real systems: see trees/README.md."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from memdash.host.capacity import cgroup_levels
from memdash.host.ceilings import AddressSpace, binding, find_ceilings
from memdash.host.oom_evidence import OomWatch
from memdash.host.pressure import Pressure, pressure_file
from memdash.host.process_tree import TreeReading
from tests.host import capture
from tests.host.capture import PID, TREES, plant

MIB = 1 << 20
NOTHING = TreeReading(0, 0)
MEMTOTAL = "/proc/meminfo: MemTotal"
HELD = 48  # MiB that every captured process held


@dataclass(frozen=True)
class Told:
    """What is known of a tree without memdash: from how it was made, and from its figures by hand."""

    limit_bytes: int
    file: str
    """The end of the name of the file that binds."""
    used_bytes: int
    reclaimable_bytes: int
    levels: int
    """How many cgroups of the hierarchy that holds memory can be seen, the process's own and the mount point included."""
    pressure: str
    """The end of the name of the file; empty where the kernel was built without PSI."""


TOLD = {
    "above-the-machine-v2": Told(2_074_882_048, MEMTOTAL, 354_967_552, 94_220_288, 3, "run-u3.service/memory.pressure"),
    "docker-host-namespace-v2": Told(256 * MIB, "docker-000000000001.scope/memory.max", 57_860_096, 25_165_824, 3, ""),
    "docker-no-limit-v1": Told(25_276_502_016, MEMTOTAL, 16_332_521_472, 4_888_698_880, 1, "pressure/memory"),
    "docker-no-limit-v2": Told(1_042_075_648, MEMTOTAL, 153_628_672, 309_334_016, 1, ""),
    "docker-private-namespace-v1": Told(
        256 * MIB, "memory/memory.limit_in_bytes", 57_835_520, 25_165_824, 1, "pressure/memory"
    ),
    "docker-v1": Told(256 * MIB, "memory/memory.limit_in_bytes", 58_097_664, 25_165_824, 1, "pressure/memory"),
    "docker-v2": Told(256 * MIB, "cgroup/memory.max", 57_843_712, 25_174_016, 1, ""),
    "kubernetes-cgroupfs-v2": Told(200 * MIB, "pod000000000001/memory.max", 57_831_424, 25_456_640, 5, ""),
    "kubernetes-host-namespace-v2": Told(
        200 * MIB, "kubepods-burstable-pod000000000001.slice/memory.max", 57_991_168, 25_165_824, 5, ""
    ),
    "kubernetes-pod-limit-v1": Told(
        200 * MIB, "memory/memory.stat: hierarchical_memory_limit", 57_987_072, 25_165_824, 1, "pressure/memory"
    ),
    "kubernetes-v1": Told(150 * MIB, "memory/memory.limit_in_bytes", 57_872_384, 25_165_824, 1, "pressure/memory"),
    "kubernetes-v2": Told(150 * MIB, "cgroup/memory.max", 57_712_640, 25_165_824, 1, ""),
    "no-limits-v2": Told(2_074_882_048, MEMTOTAL, 595_615_744, 94_269_440, 3, "run-u4.service/memory.pressure"),
    "podman-v2": Told(256 * MIB, "cgroup/memory.max", 57_831_424, 25_165_824, 1, ""),
    "slurm-v1": Told(256 * MIB, "job_1/memory.limit_in_bytes", 58_052_608, 25_174_016, 6, "unified/memory.pressure"),
    "slurm-v2": Told(256 * MIB, "job_2/memory.max", 58_646_528, 32_055_296, 7, ""),
    "systemd-scope-v2": Told(
        256 * MIB,
        "run-r000000000001.scope/memory.max",
        57_798_656,
        25_165_824,
        3,
        "run-r000000000001.scope/memory.pressure",
    ),
    "systemd-service-hybrid": Told(300 * MIB, "run-u4.service/memory.limit_in_bytes", 58_458_112, 32_051_200, 3, ""),
    "systemd-service-v1": Told(300 * MIB, "run-u5.service/memory.limit_in_bytes", 58_437_632, 32_051_200, 3, ""),
    "systemd-service-v2": Told(
        300 * MIB, "run-u2.service/memory.max", 57_806_848, 25_198_592, 3, "run-u2.service/memory.pressure"
    ),
    "user-slice-hybrid": Told(512 * MIB, "user-1000.slice/memory.limit_in_bytes", 61_874_176, 25_915_392, 4, ""),
    "user-slice-v1": Told(512 * MIB, "user-1000.slice/memory.limit_in_bytes", 61_808_640, 25_915_392, 4, ""),
    "user-slice-v2": Told(512 * MIB, "user-1000.slice/memory.max", 62_017_536, 25_915_392, 6, ""),
}


@pytest.fixture(params=TOLD.items(), ids=TOLD.keys())
def tree(request, tmp_path: Path):
    """A tree below `/`, what was written down of it, and what must be made of it."""
    name, told = request.param
    return tmp_path, plant(name, tmp_path), told


def test_every_tree_is_in_the_table():
    assert {path.stem for path in TREES.glob("*.json")} == TOLD.keys()


def test_the_processs_own_cgroup_is_found(tree):
    root, written, told = tree
    levels = [level for level in cgroup_levels(PID, root) if level.usage_file.exists() or level.version == 2]
    assert levels[0].path == root / written["home"].lstrip("/")
    assert len([level for level in levels if level.version == levels[0].version]) == told.levels


def test_the_ceiling_that_binds_and_how_full_it_is(tree):
    root, _, told = tree
    ceiling = binding(find_ceilings(PID, root=root), NOTHING)
    assert (ceiling.limit_bytes, ceiling.source[-len(told.file) :]) == (told.limit_bytes, told.file)
    fill = ceiling.fill(NOTHING)
    assert (fill.used_bytes, fill.reclaimable_bytes) == (told.used_bytes, told.reclaimable_bytes)
    assert HELD * MIB < fill.used_bytes < told.limit_bytes


def test_pressure_is_read_from_the_nearest_file(tree):
    root, _, told = tree
    file = pressure_file(cgroup_levels(PID, root), root)
    pressure = Pressure(file)
    assert pressure.read(0.0) is None
    stalled = pressure.read(1.0)
    if told.pressure:
        assert str(file).endswith(told.pressure)
        assert (stalled.some, stalled.full) == (0, 0)
    else:
        assert stalled is None


def test_kills_can_be_counted(tree):
    root, written, _ = tree
    evidence = OomWatch.begin(int(PID), root, kmsg=root / "none").evidence()
    assert evidence.levels[0].kills == 0
    assert str(root / written["home"].lstrip("/")) in evidence.levels[0].limit_file
    assert evidence.machine_kills == 0


def test_only_memory_high_is_a_throttle(tmp_path):
    plant("systemd-service-v2", tmp_path)
    levels = cgroup_levels(PID, tmp_path)
    assert [level.throttle_bytes() for level in levels] == [200 * MIB, None, None]


def test_a_capture_of_this_machine_is_read_as_the_machine_is(tmp_path):
    command = [sys.executable, "-I", capture.__file__, "this machine"]  # as users have it: a file without a package
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (tmp_path / "here.json").write_text(text)
    written = plant("here", tmp_path / "root", tmp_path)
    live = [one.limit_bytes for one in find_ceilings() if not isinstance(one, AddressSpace)]
    assert [one.limit_bytes for one in find_ceilings(PID, root=tmp_path / "root")] == live
    assert written["about"] == "this machine"
    ids = capture.SECRETS.findall(Path("/proc/self/cgroup").read_text())
    assert not [one for one in ids if one in text]

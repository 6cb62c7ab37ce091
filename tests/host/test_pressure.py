"""How long processes wait for memory: shares from running totals, and the kernel's alarm."""

from __future__ import annotations

import select
import subprocess
import sys

import pytest

from memdash.host.capacity import CgroupLevel
from memdash.host.pressure import Pressure, PressureTrigger, Stalled, pressure_file

PSI = "some avg10=0.00 avg60=0.00 avg300=0.00 total={some}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total={full}\n"


def test_shares_come_from_the_totals(tmp_path):
    file = tmp_path / "memory.pressure"
    pressure = Pressure(file)
    file.write_text(PSI.format(some=1_000_000, full=0))
    assert pressure.read(10.0) is None
    file.write_text(PSI.format(some=1_500_000, full=250_000))
    assert pressure.read(11.0) == Stalled(0.5, 0.25)
    file.unlink()
    assert pressure.read(12.0) is None


@pytest.mark.parametrize("path", ["nowhere", "regular"])
def test_what_is_no_file_of_the_kernels_takes_no_trigger(path, tmp_path):
    (tmp_path / "regular").write_text(PSI.format(some=0, full=0))
    with pytest.raises(OSError, match=r"No such file|Operation not permitted"):
        PressureTrigger(tmp_path / path)


THRASH = """
import mmap, os, sys
with open(sys.argv[1], "wb") as file:
    for _ in range(96):
        file.write(bytes(1 << 20))
    file.flush()
    os.fsync(file.fileno())
pages = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=mmap.PROT_READ)
while True:
    for at in range(0, len(pages), mmap.PAGESIZE):
        pages[at]
"""


def test_the_kernel_rings_when_a_process_thrashes(memory_cgroup, tmp_path):
    kind = subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True).stdout.strip()
    if kind == "tmpfs":
        pytest.skip("files that are in memory already cannot be read in again")
    cgroup = memory_cgroup(48 << 20)
    inner = CgroupLevel(cgroup.inner, cgroup.level.version)
    try:
        trigger = PressureTrigger(pressure_file([inner]))
    except OSError as error:
        pytest.skip(f"this kernel takes no trigger: {error}")
    child = subprocess.Popen(cgroup.inside(sys.executable, "-c", THRASH, str(tmp_path / "large")))
    try:
        poll = select.poll()
        poll.register(trigger.fileno(), select.POLLIN)
        assert poll.poll(60_000), "waited a minute for the alarm"
        trigger.look()
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
        trigger.close()

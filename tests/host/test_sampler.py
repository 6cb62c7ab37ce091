"""Real processes: their memory, their children's, and the peaks between two reports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from memdash.host.ceilings import Fill, Machine, find_ceilings
from memdash.host.process_tree import ProcessTree, TreeReading
from memdash.host.sampler import REFRESH_EVERY, HostSampler

MIB = 1 << 20
HOLDER = """
import os, sys
block = bytearray(os.urandom(1)) * {size}
if {fork}:
    for _ in range({fork}):
        if os.fork() == 0:
            os.write(1, b"up\\n")  # one call: the children speak all at once
            sys.stdin.read()
            os._exit(0)
os.write(1, b"up\\n")
sys.stdin.read()
"""


@pytest.fixture
def hold():
    """Starts a process that holds memory, and `fork` children that share it."""
    held = []

    def start(size: int, fork: int = 0) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER.format(size=size, fork=fork)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(fork + 1):
            assert process.stdout.readline() == b"up\n"
        held.append(process)
        return process

    yield start
    for process in held:
        process.communicate()


def test_memory_of_a_process(hold):
    process = hold(100 * MIB)
    sampler = HostSampler(process.pid)
    sampler.sample()
    memory = sampler.report()
    assert 100 * MIB < memory.process_bytes < 130 * MIB
    assert memory.num_processes == 1
    assert memory.working_set_bytes <= memory.peak_working_set_bytes < memory.capacity_bytes
    sampler.close()


def test_children_are_counted(hold):
    process = hold(10 * MIB, fork=3)
    tree = ProcessTree(process.pid)
    tree.refresh()
    assert tree.read().count == 4
    tree.close()


def test_a_process_that_has_ended_counts_nothing(hold):
    process = hold(10 * MIB)
    tree = ProcessTree(process.pid)
    tree.refresh()
    process.communicate()
    assert tree.read() == TreeReading(0, 0)
    tree.refresh()
    assert tree.read() == TreeReading(0, 0)
    tree.close()


def test_without_proc_psutil_tells_and_the_figures_say_so(hold, tmp_path):
    process = hold(100 * MIB, fork=1)
    sampler = HostSampler(process.pid, root=tmp_path)
    for _ in range(REFRESH_EVERY + 1):
        sampler.sample()
    memory = sampler.report()
    assert (memory.kind, memory.capacity_source) == ("estimated", "psutil.virtual_memory().total")
    assert memory.capacity_bytes == psutil.virtual_memory().total > memory.working_set_bytes > memory.process_bytes
    assert memory.num_processes == 2
    assert memory.process_bytes > 200 * MIB  # what the fork shares counts in each
    assert (memory.swap_bytes, memory.throttle_bytes, memory.stalled_some) == (0, None, None)
    sampler.close()


class Steps:
    """A ceiling whose use follows a script."""

    limit_bytes, source = 1000, "steps"

    def __init__(self, *used: int) -> None:
        self._used = iter(used)

    def fill(self, tree: TreeReading) -> Fill:
        return Fill(next(self._used))


def test_the_peak_between_two_reports_shows(monkeypatch):
    monkeypatch.setattr("memdash.host.sampler.find_ceilings", lambda *_: [Steps(90, 90)])
    host = HostSampler(os.getpid(), reset_peaks=False)
    host.ceiling = Steps(100, 300, 110, 120, 115)
    monkeypatch.setattr(host, "_refresh", lambda: None)
    for _ in range(3):
        host.sample()
    first = host.report()
    assert (first.working_set_bytes, first.peak_working_set_bytes) == (110, 300)
    host.sample()
    host.sample()
    second = host.report()
    assert (second.working_set_bytes, second.peak_working_set_bytes) == (115, 120)
    host.close()


SPIKER = """
import mmap, sys
for line in sys.stdin:
    size, kind = int(line.split()[0]), line.split()[1]
    if kind == "anonymous":
        block = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block.write(bytes(size))
        block.close()
    print("done", flush=True)
"""


@pytest.fixture
def spiker():
    """A process that takes memory when told to and gives it back at once."""
    process = subprocess.Popen([sys.executable, "-c", SPIKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def spike(size: int) -> None:
        process.stdin.write(f"{size} anonymous\n")
        process.stdin.flush()
        assert process.stdout.readline() == "done\n"

    spike(1)
    spike.pid = process.pid
    yield spike
    process.communicate()


def test_a_spike_that_no_sample_saw_is_in_the_peak(spiker):
    host = HostSampler(spiker.pid)
    host.sample()
    host.report()
    spiker(100 * MIB)
    host.sample()
    memory = host.report()
    assert memory.process_bytes < 60 * MIB
    # the kernel counts in batches of some pages
    assert 99 * MIB < memory.peak_process_bytes - memory.process_bytes < 110 * MIB
    assert memory.peak_working_set_bytes - memory.working_set_bytes > 99 * MIB
    host.sample()
    assert host.report().peak_process_bytes < 60 * MIB  # told once
    host.close()


def test_peaks_are_left_alone_when_the_user_wants_ru_maxrss(spiker):
    host = HostSampler(spiker.pid, reset_peaks=False)
    host.sample()
    spiker(100 * MIB)
    host.sample()
    assert host.report().peak_process_bytes < 60 * MIB
    host.close()
    status = Path(f"/proc/{spiker.pid}/status").read_text()
    assert int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 > 100 * MIB


def test_pages_that_a_fork_left_in_common_are_counted_once(hold):
    process = hold(200 * MIB, fork=4)
    tree = ProcessTree(process.pid)
    assert tree.refresh()
    assert tree.read().rss_bytes > 1000 * MIB  # until they are measured, each of the five seems to have its own
    tree.measure_sharing()
    for _ in range(5):
        tree.measure_next()
    assert 200 * MIB < tree.read().rss_bytes < 260 * MIB
    tree.close()


def test_a_sampler_finds_out_by_itself_what_forked_workers_share(hold):
    process = hold(200 * MIB, fork=2)
    host = HostSampler(process.pid)
    for _ in range(30):
        host.sample()
    memory = host.report()
    assert memory.num_processes == 3
    assert 200 * MIB < memory.process_bytes < 260 * MIB
    host.close()


def test_the_machines_fill_moves_with_what_we_allocate():
    machine = next(ceiling for ceiling in find_ceilings() if isinstance(ceiling, Machine))
    before = machine.fill(TreeReading(0, 0))
    assert 0 < before.used_bytes < machine.limit_bytes
    assert before.used_bytes + before.reclaimable_bytes <= machine.limit_bytes
    block = bytearray(b"x") * (1024 * MIB)
    after = machine.fill(TreeReading(0, 0))
    del block
    assert after.used_bytes - before.used_bytes > 400 * MIB  # the rest of the machine may give some back meanwhile

"""Real processes: their memory, their children's, and the peaks between two reports."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from memdash.host.capacity import machine_capacity
from memdash.host.process_tree import ProcessTree
from memdash.host.sampler import HostSampler, working_set_bytes

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
    assert sampler.oom_kills() == 0
    sampler.close()


def test_children_are_counted(hold):
    process = hold(10 * MIB, fork=3)
    tree = ProcessTree(process.pid)
    tree.refresh()
    assert tree.rss_bytes()[1] == 4
    tree.close()


def test_a_process_that_has_ended_counts_nothing(hold):
    process = hold(10 * MIB)
    tree = ProcessTree(process.pid)
    tree.refresh()
    process.communicate()
    assert tree.rss_bytes() == (0, 0)
    tree.refresh()
    assert tree.rss_bytes() == (0, 0)
    tree.close()


def test_the_peak_between_two_reports_shows(monkeypatch):
    readings = iter([100, 300, 110, 120, 115])
    monkeypatch.setattr("memdash.host.sampler.working_set_bytes", lambda capacity: next(readings))
    host = HostSampler(os.getpid())
    for _ in range(3):
        host.sample()
    first = host.report()
    assert (first.working_set_bytes, first.peak_working_set_bytes) == (110, 300)
    host.sample()
    host.sample()
    second = host.report()
    assert (second.working_set_bytes, second.peak_working_set_bytes) == (115, 120)
    host.close()


def test_the_working_set_of_this_machine_moves_with_what_we_allocate():
    capacity = machine_capacity()
    before = working_set_bytes(capacity)
    block = bytearray(b"x") * (1024 * MIB)
    after = working_set_bytes(capacity)
    del block
    assert after - before > 400 * MIB  # the rest of the machine may give some back meanwhile

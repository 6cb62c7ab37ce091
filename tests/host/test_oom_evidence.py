"""Counters of v1 and v2 trees since a moment, and the kernel's own log where it can be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memdash.host import oom_evidence
from memdash.host.oom_evidence import OomBaseline, OomWatch
from memdash.host.oom_kill import find_kill

GIB = 1 << 30
V2 = ("0::/job/step\n", "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
V1 = ("4:memory:/job/step\n0::/\n", "35 31 0:32 / /sys/fs/cgroup rw - cgroup cgroup rw,memory\n")


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def machine(root: Path, membership: tuple[str, str], **cgroup: str) -> Path:
    """A /proc with one process, 7, two cgroups deep."""
    files = {"proc/7/cgroup": membership[0], "proc/self/mountinfo": membership[1]}
    files |= {"proc/vmstat": "pgfault 5\noom_kill 3\n", "proc/meminfo": "MemTotal: 1024 kB\n"}
    write(root, {**files, **{f"sys/fs/cgroup/{name}": text for name, text in cgroup.items()}})
    return root


V2_FILES = {
    "memory.events": "",
    "job/memory.events": "oom 4\noom_kill 9\n",
    "job/memory.events.local": "oom 2\noom_kill 0\n",
    "job/memory.max": str(GIB),
    "job/step/memory.events": "oom 0\noom_kill 5\n",
    "job/step/memory.max": "max\n",
}
V1_FILES = {
    "memory.oom_control": "under_oom 0\noom_kill 1\n",
    "job/memory.oom_control": "under_oom 0\noom_kill 0\n",
    "job/memory.limit_in_bytes": str(GIB),
    "job/memory.failcnt": "70",
    "job/step/memory.oom_control": "under_oom 0\noom_kill 5\n",
}


@pytest.mark.parametrize(
    ("membership", "before", "after"),
    [
        (
            V2,
            V2_FILES,
            {"job/memory.events.local": "oom 3\noom_kill 0\n", "job/step/memory.events": "oom 0\noom_kill 6\n"},
        ),
        (V1, V1_FILES, {"job/memory.failcnt": "90", "job/step/memory.oom_control": "oom_kill 6\n"}),
    ],
    ids=["v2", "v1"],
)
def test_a_kill_is_told_from_counters(tmp_path, membership, before, after):
    root = machine(tmp_path, membership, **before)
    watch = OomWatch.begin(7, root, kmsg=tmp_path / "none")
    assert find_kill(watch.evidence(), (7,)) is None
    assert watch.kills() == 0
    write(root, {f"sys/fs/cgroup/{name}": text for name, text in after.items()})
    write(root, {"proc/vmstat": "oom_kill 4\n"})
    evidence = watch.evidence()
    assert (evidence.machine_kills, evidence.machine_bytes, evidence.log) == (1, 1 << 20, None)
    limit_file = root / "sys/fs/cgroup/job" / ("memory.max" if membership is V2 else "memory.limit_in_bytes")
    where = f"cgroup /job reached its limit of 1.00 GiB ({limit_file})"
    assert find_kill(evidence, (7,)).where == where
    assert watch.kills() == 1
    later = OomWatch(watch.baseline, root, tmp_path / "none")  # another supervisor, after the process has gone
    assert find_kill(later.evidence(), (7,)).where == where


def test_without_a_baseline_nothing_is_told(tmp_path):
    root = machine(tmp_path, V2, **V2_FILES)
    assert find_kill(OomWatch(OomBaseline([], {}, None), root, tmp_path / "none").evidence(), (7,)) is None


def test_a_cgroup_that_kills_all_at_once_is_seen(tmp_path):
    root = machine(tmp_path, V2, **V2_FILES)
    assert OomWatch.begin(7, root).together() is None
    write(root, {"sys/fs/cgroup/job/memory.oom.group": "1\n"})
    assert OomWatch.begin(7, root).together().name == "/job"


RECORDS = [
    "6,5,100,-;usb 1-1: new device\n",
    "3,6,200,-;Out of memory: Killed process 7 (python) total-vm:1kB\n",
    "3,7,300,-;Out of memory: Killed process 8 (python) total-vm:1kB\n",
]


def test_the_log_counts_from_the_start_of_the_process(tmp_path, monkeypatch):
    root = machine(tmp_path, V2, **V2_FILES)
    records = RECORDS[:2]
    monkeypatch.setattr(oom_evidence, "_records", lambda path: records)
    watch = OomWatch.begin(7, root)
    assert watch.evidence().log == ()
    records = RECORDS  # the lambda sees it
    assert [kill.pid for kill in watch.evidence().log] == [8]


def test_the_log_of_this_machine():
    records = oom_evidence._records(oom_evidence.KMSG)
    if records is None:
        pytest.skip("the kernel's log is closed to us")
    numbers = [oom_evidence.record_number(record) for record in records]
    assert numbers == sorted(numbers)
    assert OomWatch.begin(os.getpid()).baseline.log_number >= (numbers[-1] if numbers else 0)


def test_a_log_that_cannot_be_read(tmp_path):
    assert oom_evidence._records(tmp_path / "none") is None
    assert oom_evidence._records(tmp_path) is None  # a directory: it opens, and does not read

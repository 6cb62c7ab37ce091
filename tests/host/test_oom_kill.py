"""The kernel's log as kernels write it, and who was killed for which limit by all that is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from memdash.host.oom_kill import LevelEvidence, LoggedKill, OomEvidence, find_kill, parse_log

GIB = 1 << 30

# 6.18, a v1 cgroup two levels above the process that was killed; shortened
V1 = """\
6,340,11454588100,-;python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
4,341,11454588110,-;CPU: 1 UID: 0 PID: 32498 Comm: python3 Not tainted 6.18.44 #1 PREEMPT(none)
6,369,11454588468,-;memory: usage 102400kB, limit 102400kB, failcnt 1787
6,370,11454588483,-;memory+swap: usage 102400kB, limit 9007199254740988kB, failcnt 0
6,372,11454588486,-;Memory cgroup stats for /job/t1:
6,417,11454588635,-;[  32498]     0 32498    29751    26790    25472     1318         0   274432        0             0 python3
6,418,11454588639,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/job/t1,task_memcg=/job/t1/in,task=python3,pid=32498,uid=0
3,419,11454588670,-;Memory cgroup out of memory: Killed process 32498 (python3) total-vm:119004kB, anon-rss:101888kB, file-rss:5272kB, shmem-rss:0kB, UID:0 pgtables:268kB oom_score_adj:0
"""
# v2 with memory.oom.group: one report, every process of the cgroup
V2_GROUP = """\
4,900,5000000,-;python invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=500
6,901,5000100,-;memory: usage 1048576kB, limit 1048576kB, failcnt 31
6,902,5000110,-;swap: usage 0kB, limit 0kB, failcnt 0
6,903,5000200,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=pod,mems_allowed=0,oom_memcg=/kubepods/pod1,task_memcg=/kubepods/pod1/c1,task=python,pid=71,uid=1000
6,904,5000210,-;Tasks in /kubepods/pod1/c1 are going to be killed due to memory.oom.group set
3,905,5000220,-;Memory cgroup out of memory: Killed process 71 (python) total-vm:4kB, anon-rss:3kB, file-rss:0kB, shmem-rss:0kB, UID:1000 pgtables:2kB oom_score_adj:500
3,906,5000230,-;Memory cgroup out of memory: Killed process 70 (memdash) total-vm:4kB, anon-rss:3kB, file-rss:0kB, shmem-rss:0kB, UID:1000 pgtables:2kB oom_score_adj:0
"""
MACHINE = """\
4,50,1000,-;chrome invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=300
6,51,1001,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=user.slice,mems_allowed=0,global_oom,task_memcg=/user.slice/a,task=pt_main (worker),pid=9,uid=1000
3,52,1002,-;Out of memory: Killed process 9 (pt_main (worker)) total-vm:9kB, anon-rss:8kB, file-rss:0kB, shmem-rss:0kB, UID:1000 pgtables:1kB oom_score_adj:500
"""
# 4.18 says what it is about in a line before; a rate limit may leave all but the last line out
OLD = """\
3,7,100,-;Memory cgroup out of memory: Killed process 5 (python) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB
6,8,101,c;oom_reaper: reaped process 5 (python), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB
"""


def kills(text: str) -> list[tuple[int, str, int, bool, str, int | None]]:
    found = parse_log(text.splitlines(keepends=True))
    return [(kill.pid, kill.name, kill.number, kill.of_cgroup, kill.cgroup, kill.limit_bytes) for kill in found]


IN_V1 = (32498, "python3", 419, True, "/job/t1", 100 << 20)
IN_MACHINE = (9, "pt_main (worker)", 52, False, "", None)
LOGS = {
    "empty": ("", []),
    "other devices": ("6,1,2,-;usb 1-1: new device\n SUBSYSTEM=usb\n", []),
    "no record at all": ("hello", []),
    "v1": (V1, [IN_V1]),
    "a whole group": (
        V2_GROUP,
        [(71, "python", 905, True, "/kubepods/pod1", GIB), (70, "memdash", 906, True, "/kubepods/pod1", GIB)],
    ),
    "the machine": (MACHINE, [IN_MACHINE]),
    "the last line alone": (OLD, [(5, "python", 7, True, "", None)]),
    "two": (V1 + MACHINE, [IN_V1, IN_MACHINE]),
}


@pytest.mark.parametrize(("text", "expected"), LOGS.values(), ids=LOGS.keys())
def test_the_log(text, expected):
    assert kills(text) == expected


LEAF = LevelEvidence("/job/t1/in", None, "/sys/in/memory.max", kills=1)
BOUND = LevelEvidence("/job/t1", GIB, "/sys/t1/memory.max", kills=1, limit_hits=1)
OUTER = LevelEvidence("/job", 8 * GIB, "/sys/job/memory.max", kills=1)
LEVELS = (LEAF, BOUND, OUTER)
OURS = LoggedKill(7, "python", 1, "Killed process 7", True, "/job/t1", GIB)
OTHER = replace(OURS, pid=8, line="Killed process 8")
QUIET = tuple(replace(level, kills=0, limit_hits=0) for level in LEVELS)
AT_BOUND = "cgroup /job/t1 reached its limit of 1.00 GiB (/sys/t1/memory.max)"
MACHINE_OUT = "the machine ran out of memory (24.0 GiB in all)"

KILLS = {
    "counts alone": (OomEvidence(LEVELS, 1), AT_BOUND),
    "log and counts": (OomEvidence(LEVELS, 1, log=(OURS,)), AT_BOUND),
    "nothing": (OomEvidence(), None),
    "no kill": (OomEvidence(QUIET, 0, log=()), None),
    "a kill elsewhere on the machine": (OomEvidence(QUIET, 3), None),
    "a kill in a cousin, which v2 counts above us": (OomEvidence((QUIET[0], BOUND, OUTER), 1), None),
    "a sibling, by the log": (OomEvidence(LEVELS, 1, log=(OTHER,)), None),
    "a sibling and us": (OomEvidence(LEVELS, 2, log=(OTHER, OURS)), AT_BOUND),
    "a sibling, and a log that lags": (OomEvidence(LEVELS, 2, log=(OTHER,)), AT_BOUND),
    "no counts but the machine's": (OomEvidence((), 1, 24 * GIB), MACHINE_OUT),
    "a cgroup without counts": (OomEvidence((replace(LEAF, kills=None),), 1, 24 * GIB), MACHINE_OUT),
    "the machine, by the log": (
        OomEvidence(LEVELS, 1, 24 * GIB, log=(replace(OURS, of_cgroup=False, cgroup="", limit_bytes=None),)),
        MACHINE_OUT,
    ),
    "no limit anywhere": (OomEvidence((LEAF,), 1, 24 * GIB), MACHINE_OUT),
    "limits, none of them reached": (
        OomEvidence((LEAF, replace(BOUND, limit_hits=0)), 1, 24 * GIB),
        "no limit that can be seen from here was reached: the machine, or a cgroup outside, ran out of memory",
    ),
    "a limit that was reached, and refusals that nothing counted": (
        OomEvidence((LEAF, replace(BOUND, limit_hits=0, was_full=True), OUTER), 1),
        AT_BOUND,
    ),
    "what was counted says more than what was full once": (
        OomEvidence((replace(LEAF, limit_bytes=1, was_full=True), BOUND), 1),
        AT_BOUND,
    ),
    "the log knows the level better": (
        OomEvidence(LEVELS, 1, log=(replace(OURS, cgroup="/job"),)),
        "cgroup /job reached its limit of 8.00 GiB (/sys/job/memory.max)",
    ),
    "a namespace shows the end of the name": (
        OomEvidence((replace(BOUND, name="/t1"),), 1, log=(OURS,)),
        "cgroup /t1 reached its limit of 1.00 GiB (/sys/t1/memory.max)",
    ),
    "a cgroup outside of the container": (
        OomEvidence((replace(LEAF, name="/"),), 1, log=(OURS,)),
        "cgroup /job/t1, which cannot be seen from here, reached its limit of 1.00 GiB",
    ),
    "the log leaves the cgroup out": (OomEvidence(LEVELS, 1, log=(replace(OURS, cgroup=""),)), AT_BOUND),
}


@pytest.mark.parametrize(("evidence", "where"), KILLS.values(), ids=KILLS.keys())
def test_who_was_killed_for_which_limit(evidence, where):
    kill = find_kill(evidence, (7,))
    assert (kill.where if kill else None) == where


def test_a_kill_that_only_the_machine_has_counted_is_not_certain():
    assert not find_kill(OomEvidence((), 1), (7,)).certain
    assert find_kill(OomEvidence(LEVELS, 1), (7,)).certain


def test_what_the_log_says_is_kept():
    assert find_kill(OomEvidence(LEVELS, 1, log=(OURS,)), (7,)).line == "Killed process 7"

"""The limit that kills first, on directory trees as containers have them."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from memdash.host.capacity import cgroup_levels, read_field
from memdash.host.ceilings import binding, find_ceilings
from memdash.host.process_tree import TreeReading

GIB = 1 << 30
NOTHING = TreeReading(0, 0)
V2_MOUNT = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1_MOUNT = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
V1_DOCKER_MOUNT = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory\n"


def tree(root: Path, cgroup: str, mounts: str, files: dict[str, str], mem_total: int = 24 * GIB) -> Path:
    """A /proc and /sys with one process, 7."""
    proc = root / "proc" / "7"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(cgroup)
    (root / "proc" / "self").mkdir()
    (root / "proc" / "self" / "mountinfo").write_text(mounts)
    (root / "proc" / "meminfo").write_text(
        f"MemTotal:  {mem_total // 1024} kB\nMemFree: {mem_total // 4096} kB\nMemAvailable:  {mem_total // 2048} kB\n"
    )
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


# written by hand: layouts that no machine of ours could be made to show; captured ones are in test_trees.py
CASES = {
    "no cgroup files": ("", "", {}, 24 * GIB, "/proc/meminfo: MemTotal"),
    "a tie goes outwards": (
        "0::/a/b\n",
        V2_MOUNT,
        {"a/b/memory.max": f"{GIB}", "a/memory.max": f"{GIB}"},
        GIB,
        "cgroup/a/memory.max",
    ),
    "outside of the namespace": ("0::/../../x\n", V2_MOUNT, {"memory.max": f"{3 * GIB}"}, 3 * GIB, "cgroup/memory.max"),
    "a name that begins like the mount's root": (
        "4:memory:/docker/abcdef\n",
        V1_DOCKER_MOUNT,
        {"memory/memory.limit_in_bytes": f"{3 * GIB}", "memory/def/memory.limit_in_bytes": f"{GIB}"},
        3 * GIB,
        "memory/memory.limit_in_bytes",
    ),
    "mounted twice, the wider view wins": (
        "0::/a/b\n",
        V2_MOUNT.replace("0:26 / /sys/fs/cgroup ", "0:26 /a/b /sys/fs/cgroup/narrow ") + V2_MOUNT,
        {"narrow/memory.max": f"{2 * GIB}", "a/b/memory.max": f"{2 * GIB}", "a/memory.max": f"{GIB}"},
        GIB,
        "cgroup/a/memory.max",
    ),
}


@pytest.mark.parametrize(("cgroup", "mounts", "files", "limit", "source"), CASES.values(), ids=CASES.keys())
def test_effective_capacity(tmp_path, cgroup, mounts, files, limit, source):
    ceiling = binding(find_ceilings("7", root=tree(tmp_path, cgroup, mounts, files)), NOTHING)
    assert ceiling.limit_bytes == limit
    assert ceiling.source.endswith(source)


@pytest.mark.parametrize("path", ["/..", "/../../x"])
def test_outside_of_the_namespace_only_its_top_is_seen(tmp_path, path):
    root = tree(tmp_path, f"0::{path}\n", V2_MOUNT, {"memory.max": f"{3 * GIB}"})
    assert [level.path for level in cgroup_levels("7", root)] == [root / "sys/fs/cgroup"]


def test_a_field_must_begin_its_line(tmp_path):
    (tmp_path / "stat").write_text("total_inactive_file 7\ninactive_file 3\n")
    assert read_field(tmp_path / "stat", "inactive_file") == 3
    assert read_field(tmp_path / "stat", "active_file") is None
    assert read_field(tmp_path / "none", "x") is None


@pytest.mark.parametrize(
    ("cgroup", "mounts", "files"),
    [
        (
            "0::/a\n",
            V2_MOUNT,
            {"a/memory.max": f"{GIB}", "a/memory.current": "700", "a/memory.stat": "inactive_file 200\n"},
        ),
        (
            "4:memory:/a\n",
            V1_MOUNT,
            {
                "memory/a/memory.limit_in_bytes": f"{GIB}",
                "memory/a/memory.usage_in_bytes": "700",
                "memory/a/memory.stat": "inactive_file 1\ntotal_inactive_file 200\n",
            },
        ),
    ],
    ids=["v2", "v1"],
)
def test_the_working_set_leaves_out_what_can_be_given_back(tmp_path, cgroup, mounts, files):
    ceiling = binding(find_ceilings("7", root=tree(tmp_path, cgroup, mounts, files)), NOTHING)
    fill = ceiling.fill(NOTHING)
    assert (fill.used_bytes, fill.reclaimable_bytes) == (500, 200)


def test_a_wide_cgroup_that_neighbours_have_filled_binds_before_a_narrow_empty_one(tmp_path):
    files = {
        "a/b/memory.max": f"{GIB}",
        "a/b/memory.current": f"{GIB // 4}",
        "a/memory.max": f"{8 * GIB}",
        "a/memory.current": f"{8 * GIB - GIB // 8}",
    }
    root = tree(tmp_path, "0::/a/b\n", V2_MOUNT, files)
    ceilings = find_ceilings("7", root=root)
    outer = binding(ceilings, NOTHING)
    assert outer.source.endswith("cgroup/a/memory.max")
    (root / "sys/fs/cgroup/a/memory.current").write_text(f"{8 * GIB - GIB * 3 // 4 + GIB // 50}")
    assert binding(ceilings, NOTHING).source.endswith("a/memory.max")
    (root / "sys/fs/cgroup/a/memory.current").write_text(f"{8 * GIB - GIB * 3 // 4 - GIB // 50}")
    assert binding(ceilings, NOTHING).source.endswith("a/b/memory.max")
    assert binding(ceilings, NOTHING, held=outer) is outer  # hardly nearer: the line on the plot does not jump
    (root / "sys/fs/cgroup/a/memory.current").write_text("0")
    assert binding(ceilings, NOTHING, held=outer).source.endswith("a/b/memory.max")


def test_the_users_own_budget_and_rlimits_are_ceilings(tmp_path):
    root = tree(tmp_path, "", "", {})
    budget = binding(find_ceilings("7", 2 * GIB, root), TreeReading(GIB, 2))
    assert (budget.source, budget.limit_bytes, budget.fill(TreeReading(GIB, 2)).used_bytes) == (
        "memory.host_budget",
        2 * GIB,
        GIB,
    )
    limited = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (3 * GIB, resource.RLIM_INFINITY)),
    )
    limited.stdout.readline()
    found = {ceiling.source: ceiling for ceiling in find_ceilings(limited.pid)}
    limited.communicate()
    assert found["RLIMIT_AS"].limit_bytes == 3 * GIB
    assert found["RLIMIT_AS"].fill(TreeReading(1, 1, vm_size_bytes=77)).used_bytes == 77
    assert "RLIMIT_DATA" not in found

"""Whose process a number of the driver's means: on the host, in containers, and when it has vanished."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memdash.host.gpu_processes import INITIAL_NAMESPACE, process_name, whose

OURS = {40, 41}


def machine(root: Path, namespace: str, numbers: dict[int, str], on_gpu: set[int]) -> Path:
    """A /proc whose processes are called `numbers` in their namespaces; some hold a GPU open."""
    (root / "self/ns").mkdir(parents=True)
    os.symlink(namespace, root / "self/ns/pid")
    for pid, names in numbers.items():
        (root / f"{pid}/fd").mkdir(parents=True)
        (root / f"{pid}/status").write_text(f"Name:\tpython\nNSpid:\t{names}\n")
        (root / f"{pid}/comm").write_text("python\n")
        os.symlink("/dev/null", root / f"{pid}/fd/0")
        if pid in on_gpu:
            os.symlink("/dev/nvidia0", root / f"{pid}/fd/5")
    return root


CONTAINER = "pid:[4026532999]"
BOTH = {40: "40", 41: "41"}
CASES = {
    "on the host": (INITIAL_NAMESPACE, BOTH, set(), [40, 77], {40: True, 77: False}),
    "on the host, before anything runs": (INITIAL_NAMESPACE, {}, set(), [77], {77: False}),
    "a container whose driver counts as the host": (CONTAINER, BOTH, {40}, [9040, 77], {9040: None, 77: None}),
    "a container whose driver counts as it does": (CONTAINER, BOTH, {40}, [40, 77], {40: True, 77: False}),
    "a number that only happens to be the same": (CONTAINER, BOTH, set(), [40, 77], {40: None, 77: None}),
    "the host's /proc seen in a container": (
        CONTAINER,
        {40: "40 8", 41: "41 9"},
        {41},
        [41, 77],
        {41: True, 77: False},
    ),
    "a process that has ended since": (CONTAINER, {}, set(), [40], {40: None}),
    "nothing on the GPU": (CONTAINER, BOTH, {40}, [], {}),
}


@pytest.mark.parametrize(("namespace", "numbers", "on_gpu", "listed", "expected"), CASES.values(), ids=CASES.keys())
def test_whose(tmp_path, namespace, numbers, on_gpu, listed, expected):
    assert whose(listed, OURS, machine(tmp_path, namespace, numbers, on_gpu)) == expected


def test_names(tmp_path):
    proc = machine(tmp_path, INITIAL_NAMESPACE, {40: "40"}, set())
    assert (process_name(40, proc), process_name(77, proc)) == ("python", "")


def test_in_a_real_namespace_nothing_is_guessed():
    code = "import os; from memdash.host.gpu_processes import whose; print(whose([os.getpid(), 77], {os.getpid()}))"
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    try:
        done = subprocess.run(unshare, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if "unshare" in done.stderr:
        pytest.skip(f"no new pid namespace here: {done.stderr.strip()}")
    assert done.stdout.strip() == "{1: None, 77: None}", done.stderr

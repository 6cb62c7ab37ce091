"""What `memory.malloc` promises of a C library: freed tensors are the system's at once, or when they are asked back."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from memdash.commands._going_on import limits
from memdash.config_file import parse_config
from memdash.environment import training_environment

MIB = 1 << 20
FREED = 100 * MIB
# 100 blocks of a MiB as torch asks for them, above a heap whose top stays in use, after a block that was large: glibc
# then takes tensors of up to that size for small ones.
PROGRAM = """
import ctypes, json
libc = ctypes.CDLL(None)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def tensor(size):
    block = ctypes.c_void_p()
    assert libc.posix_memalign(ctypes.byref(block), 64, ctypes.c_size_t(size)) == 0
    ctypes.memset(block, 1, size)
    return block
libc.free(tensor(30 << 20))
before = resident()
blocks = [tensor(1 << 20) for _ in range(100)]
pin = tensor(64 << 10)
for block in blocks:
    libc.free(block)
kept = resident() - before
libc.malloc_trim(0)
print(json.dumps([kept, resident() - before]))
"""
pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's")


def kept_bytes(malloc: str) -> tuple[int, int]:
    """Of what was freed: at once, and after a trim."""
    environment = {**os.environ, **training_environment(parse_config({"memory": {"malloc": malloc}}))}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, timeout=30, check=True)
    kept, trimmed = json.loads(done.stdout)
    return kept, trimmed


def test_return_gives_freed_tensors_back_at_once_and_a_trim_does_it_later() -> None:
    usual, trimmed = kept_bytes("default")
    assert usual > 0.9 * FREED
    assert trimmed < 0.1 * FREED  # what `memory.empty_cache_every`, a pause and a recovery from OOM do
    returned, _ = kept_bytes("return")
    assert returned < 0.1 * FREED


def test_a_run_is_started_with_it_and_a_resume_may_change_it(tmp_path: Path) -> None:
    assert limits(parse_config({}))["env"] == {}
    assert limits(parse_config({"memory": {"malloc": "return"}}))["env"] == {"MALLOC_MMAP_THRESHOLD_": "131072"}

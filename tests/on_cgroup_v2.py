"""Runs tests on a kernel whose cgroup v2 has the memory controller, where this machine's has not: `python -m tests.on_cgroup_v2`.

User-mode Linux (Debian, Ubuntu: `apt install user-mode-linux`) is a kernel that runs as an ordinary process, on this machine's own
files. Needs root, no /dev/kvm and no disk image. It has no pressure stall information, so tests of that are skipped there.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
KERNEL = os.environ.get("UML_KERNEL") or shutil.which("linux.uml")
TESTS = (
    "tests/host/test_real_cgroups.py",
    "tests/integration/test_the_oom_killer.py",
    "tests/integration/test_memory_told_truly.py",
)
MEMORY = "2G"
PATIENCE = 8  # its system calls are slower by about this much
# the kernel has put its own /dev there; /tmp is a disk of its own, so that what tests write is page cache; everything else is this machine's
INIT = """#!/bin/sh
export PATH={path} HOME=/tmp OMP_NUM_THREADS=1 MEMDASH_TEST_PATIENCE={patience} PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc && mount -t sysfs sys /sys && mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /dev/shm /dev/pts && mount -t tmpfs shm /dev/shm && mount -t devpts pts /dev/pts
mount -t ext4 /dev/ubda /tmp && ip link set lo up
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
cd {root} && {command}
echo "exit code $?"
echo o > /proc/sysrq-trigger
sleep 60
"""


def main() -> int:
    """Boot, print what pytest prints; its exit code."""
    if KERNEL is None or os.geteuid() != 0:
        print(
            "needs root and user-mode Linux: apt install user-mode-linux, or UML_KERNEL=/path/to/linux.uml",
            file=sys.stderr,
        )
        return 2
    options = [word for word in sys.argv[1:] if word.startswith("-")]
    tests = [word for word in sys.argv[1:] if not word.startswith("-")] or TESTS
    pytest = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--timeout", "600", "-v", *options, *tests]
    with tempfile.TemporaryDirectory() as folder:
        init, disk = Path(folder, "init"), Path(folder, "tmp.img")
        path = os.environ["PATH"]
        init.write_text(INIT.format(path=path, patience=PATIENCE, root=ROOT, command=shlex.join(pytest)))
        init.chmod(0o755)
        with disk.open("wb") as file:
            file.truncate(2 << 30)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", str(disk)], check=True)
        return boot(["root=/dev/root", "rootfstype=hostfs", "rw", f"mem={MEMORY}", f"ubda={disk}", f"init={init}"])


def boot(arguments: list[str]) -> int:
    """Until it turns itself off; what pytest has answered, or 1."""
    code = 1
    command = [str(KERNEL), *arguments, "loglevel=2", "con=null", "con0=null,fd:1"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as kernel:
        for line in kernel.stdout or ():
            print(line, end="", flush=True)
            found = re.match(r"exit code (\d+)", line)
            code = int(found[1]) if found else code
    return code


if __name__ == "__main__":
    sys.exit(main())

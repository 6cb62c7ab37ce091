"""A script of anybody's with two forked workers: shared pages, pages of their own, and a brief spike when a file appears.

`python -m tests.programs.holds_memory FOLDER`
"""

from __future__ import annotations

import mmap
import os
import sys
import time
from pathlib import Path

MIB = 1 << 20
SHARED, OWN, SPIKE, WORKERS = 150, 60, 100, 2


def main() -> None:
    """Hold memory until `stop` appears in the folder; `spike` is answered with `spiked`."""
    folder = Path(sys.argv[1])
    shared = bytearray(b"x") * (SHARED * MIB)
    for number in range(WORKERS):
        if os.fork() == 0:
            own = bytearray(b"y") * (OWN * MIB)
            (folder / f"ready-{number}").touch()
            while not (folder / "stop").exists():
                time.sleep(0.02)
            os._exit(len(own) == 0)
    while not (folder / "stop").exists():
        if (folder / "spike").exists() and not (folder / "spiked").exists():
            block = mmap.mmap(-1, SPIKE * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for _ in range(SPIKE):
                block.write(b"z" * MIB)
            block.close()
            (folder / "spiked").touch()
        time.sleep(0.005)
    print(len(shared), flush=True)


if __name__ == "__main__":
    main()

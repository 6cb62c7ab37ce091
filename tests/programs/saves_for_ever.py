"""Children that save small checkpoints without end, and are killed at a moment that the test chooses.

`python -m tests.programs.saves_for_ever FOLDER`: for each line on stdin, a number of seconds, a child is forked, killed
with SIGKILL after so long, and reaped; then a line is printed. Forks are made here because they are cheap here.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from memdash.checkpoints import complete
from runner.checkpoint import CheckpointStore, Staging

KEEP_LAST = 2


def main() -> None:
    """One child a line."""
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            save_for_ever(folder)
        time.sleep(float(line))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        print("killed", flush=True)


def save_for_ever(folder: Path) -> None:
    """From where the one before was killed; what it left is swept first, and old ones are removed as in a run."""
    store = CheckpointStore(folder, KEEP_LAST)
    step = max((found.step for found in complete(folder)), default=0)
    while True:
        step += 1
        saved = store.save("full", step, "schedule", 100_000, lambda staging, n=step: fill(staging, n))
        store.remove_old(saved)


def fill(staging: Staging, step: int) -> None:
    """Files whose every byte says which step they are of."""
    for name in ("model.safetensors", "state.safetensors"):
        staging.write(name, lambda write: [write(bytes([step % 256]) * 4096) for _ in range(4)])
    staging.write_json("training.json", {"step": step})
    (staging.path / "tokenizer.json").write_bytes(bytes([step % 256]) * 1000)


if __name__ == "__main__":
    main()

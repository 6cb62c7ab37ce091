"""200 times kill -9 at a random moment of a save: there is always a complete checkpoint, and never an older one than before."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from memdash.checkpoints import choose, damaged, verify
from runner.checkpoint import CheckpointStore
from tests.programs import saves_for_ever

ROUNDS = 200
LONGEST_S = 0.1
pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


def test_latest_is_always_a_complete_checkpoint(tmp_path: Path) -> None:
    chance = random.Random(7)
    began_s = time.monotonic()
    store = CheckpointStore(tmp_path, saves_for_ever.KEEP_LAST)
    store.save("full", 1, "schedule", 100_000, lambda staging: saves_for_ever.fill(staging, 1))
    longest_s = min(LONGEST_S, 3 * (time.monotonic() - began_s))  # however slow the disk is: two or three saves
    newest, in_mid_save = 1, 0
    argv = [sys.executable, "-m", saves_for_ever.__name__, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin
        assert program.stdout
        for _ in range(ROUNDS):
            program.stdin.write(f"{chance.uniform(0.0, longest_s)}\n")
            program.stdin.flush()
            assert program.stdout.readline() == "killed\n"
            found, notes = choose(tmp_path, "latest", ("full",))
            assert (notes, damaged(tmp_path)) == ([], [])
            assert found.step >= newest
            assert set((found.path / "model.safetensors").read_bytes()) == {found.step % 256}
            assert verify(tmp_path / (tmp_path / "latest").read_text().strip()).step <= found.step
            newest = found.step
            in_mid_save += any(path.name.startswith(".step-") for path in tmp_path.iterdir())
        program.stdin.close()
    print(f"{in_mid_save} of {ROUNDS} were killed in a save, {newest} checkpoints were written")
    assert in_mid_save > ROUNDS // 4
    assert newest > ROUNDS // 4

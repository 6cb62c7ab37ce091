"""The plain CPU runs out of memory as well: recovered where the library can, stopped for a new process where it cannot."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runner.oom import OutOfMemoryStop
from tests.runner.conftest import Trainer, assert_bitwise
from tests.runner.toy_task import ToyTask

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limit is set by what /proc says")
def test_a_process_at_its_limit_recovers() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.programs.cpu_limit"],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=ROOT,
        check=False,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    sizes = result["micro_batches"]
    assert sizes[0] == 64
    assert len(sizes) > 1
    assert sizes == sorted(set(sizes), reverse=True)
    assert all("DefaultCPUAllocator" in message for message in result["messages"])
    assert result["difference"] < 1e-4  # fp32, after AdamW


def test_a_library_that_cannot_go_on_stops_the_process_with_its_state_whole() -> None:
    """A smaller micro-batch is a new shape, and a new shape is what fails from now on."""

    class Poisoned(ToyTask):
        poisoned = False

        def loss_sum(self, model: Any, batch: Any) -> Any:
            if self.poisoned:
                raise RuntimeError("could not create a primitive")
            return super().loss_sum(model, batch)

    task = Poisoned(dropout=0.3)
    trainer = Trainer(task, 8, 8)
    trainer.train(range(8))
    before = trainer.everything()
    task.poisoned = True
    with pytest.raises(OutOfMemoryStop, match="cannot go on in this process") as stop:
        trainer.train(range(8, 16))
    assert stop.value.state_is_whole
    assert [oom["next_micro_batch"] for oom in trainer.session.ooms] == [None]
    assert_bitwise(trainer.everything(), before)

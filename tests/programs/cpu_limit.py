"""Trains on the plain CPU, then again under a limit on this process's memory; prints what came of it as JSON."""

import json
import resource
import sys
from pathlib import Path

import torch

from tests.runner.conftest import Trainer, largest_difference
from tests.runner.toy_task import ToyTask

ROOM_BYTES = 40 << 20  # a micro-batch of 8 takes a fraction of it, one of 64 several times as much
LENGTH = 128


def task() -> ToyTask:
    made = ToyTask(count=64, width=512, dtype="float32")
    generator = torch.Generator().manual_seed(2)
    made.parts["train"] = [torch.randint(1, 7, (LENGTH,), generator=generator) for _ in range(64)]
    made.train_lengths = [LENGTH] * 64
    return made


def data_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmData:"))


# One OOM inside oneDNN's code generator and no new shape works in this thread for ever: see runner/oom.py.
torch.backends.mkldnn.set_flags(False)
torch.set_num_threads(1)
calm, limited = (Trainer(task(), 64, micro_batch) for micro_batch in (8, 64))
for _ in range(2):
    calm.train(range(64))  # the warm-up: libraries take what they keep for good
_, hard = resource.getrlimit(resource.RLIMIT_DATA)
resource.setrlimit(resource.RLIMIT_DATA, (data_bytes() + ROOM_BYTES, hard))  # soft: a hard one never goes up again
for _ in range(2):
    limited.train(range(64))
resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
result = {
    "micro_batches": [oom["micro_batch"] for oom in limited.session.ooms] + [limited.step.split.micro_batch],
    "messages": [oom["message"] for oom in limited.session.ooms],
    "difference": largest_difference(calm.everything(), limited.everything()),
}
json.dump(result, sys.stdout)

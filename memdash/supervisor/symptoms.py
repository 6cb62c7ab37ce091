"""What a training process's last output says about its end (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

DEVICE_MEMORY = re.compile(
    r"OutOfMemoryError\b|(CUDA|HIP|XPU|MPS backend) out of memory|(CUDA|CUDA driver|HIP) error: out of memory"
    r"|Triton Error \[CUDA\]: out of memory|NCCL.*out of memory|CU(BLAS|DNN)_STATUS_ALLOC_FAILED"
)
HOST_MEMORY = re.compile(
    r"(?<!OutOf)MemoryError\b|DefaultCPUAllocator: can't allocate memory|\[Errno 12\] Cannot allocate memory"
)
WORKER = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:exited unexpectedly(?! with)|is killed by signal: (\w+))"
)
SHARED_MEMORY = re.compile(
    r"insufficient shared memory|out of shared memory|killed by signal: Bus error"
    r"|(/dev/shm/|</torch_|shared memory\(shm\)).*No space left on device|No space left on device.*(/dev/shm/|/psm_)"
)
WORKER_BUS_ERROR = "ERROR: Unexpected bus error encountered in worker"


@dataclass(frozen=True)
class Symptom:
    """What an error points to."""

    kind: Literal["other", "device memory", "host memory", "worker", "shared memory"] = "other"
    pids: tuple[int, ...] = ()
    """DataLoader workers that died."""


def python_error(output: str) -> str:
    """The line that ends the last Python traceback in `output`; empty when there is none."""
    _, found, after = output.rpartition("Traceback (most recent call last):")
    if not found:
        return ""
    # the frames are indented, the error is the first line that is not
    return next((line for line in after.splitlines() if line and not line.startswith(" ")), "")


def symptom(error: str, output: str) -> Symptom:
    """What the error that ended a process, and what it printed before, point to."""
    worker = WORKER.search(error)
    if SHARED_MEMORY.search(error) or (worker and WORKER_BUS_ERROR in output):
        return Symptom("shared memory")
    if worker and worker[2] in (None, "Killed"):
        return Symptom("worker", tuple(int(pid) for pid in re.findall(r"\d+", worker[1])))
    if HOST_MEMORY.search(error):
        return Symptom("host memory")
    return Symptom("device memory") if DEVICE_MEMORY.search(error) else Symptom()

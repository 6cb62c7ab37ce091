"""Last words of real processes, as torch 2.13, numpy and Python print them, and what they point to."""

from __future__ import annotations

import pytest

from memdash.supervisor.symptoms import Symptom, python_error, symptom


@pytest.mark.parametrize(
    ("output", "error"),
    [
        ("", ""),
        ("all is well\n", ""),
        ('Traceback (most recent call last):\n  File "x", line 1\n    f()\nKeyError: 1\n', "KeyError: 1"),
        ("Traceback (most recent call last):\n  a\nA: 1\nTraceback (most recent call last):\n  b\nB: 2\nbye\n", "B: 2"),
        ("Traceback (most recent call last):\n  cut", ""),
    ],
)
def test_the_line_that_ends_a_traceback(output, error):
    assert python_error(output) == error


BUS_ERROR = (
    "ERROR: Unexpected bus error encountered in worker. This might be caused by insufficient shared memory (shm)."
)
SYMPTOMS = {
    "nothing of ours": ("KeyError: 'x'", Symptom()),
    "a full disk": ("OSError: [Errno 28] No space left on device: '/data/x'", Symptom()),
    "CUDA, by torch": ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", "device memory"),
    "CUDA, by the driver": ("torch.AcceleratorError: CUDA error: out of memory", "device memory"),
    "cuBLAS": ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`", "device memory"),
    "HIP": ("torch.OutOfMemoryError: HIP out of memory.", "device memory"),
    "MPS": ("RuntimeError: MPS backend out of memory (MPS allocated: 8.00 GB)", "device memory"),
    "Triton": ("RuntimeError: Triton Error [CUDA]: out of memory", "device memory"),
    "a database": ("sqlite3.OperationalError: out of memory", Symptom()),
    "a device fault": ("RuntimeError: CUDA error: device-side assert triggered", Symptom()),
    "CPU, by torch": (
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
            "tried to allocate 400000000000 bytes. Error code 12 (Cannot allocate memory)"
        ),
        "host memory",
    ),
    "CPU, by numpy": (
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.4 TiB for an array",
        "host memory",
    ),
    "CPU, by Python": ("MemoryError", "host memory"),
    "a fork": ("OSError: [Errno 12] Cannot allocate memory", "host memory"),
    "a worker is gone": (
        "RuntimeError: DataLoader worker (pid(s) 9128) exited unexpectedly",
        Symptom("worker", (9128,)),
    ),
    "two workers are gone": (
        "RuntimeError: DataLoader worker (pid(s) 12, 34) exited unexpectedly",
        Symptom("worker", (12, 34)),
    ),
    "a worker was killed": (
        "RuntimeError: DataLoader worker (pid 7) is killed by signal: Killed. ",
        Symptom("worker", (7,)),
    ),
    "a worker crashed": (
        "RuntimeError: DataLoader worker (pid 7) is killed by signal: Segmentation fault. ",
        Symptom(),
    ),
    "a worker's own error": (
        "RuntimeError: DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details are lost.",
        Symptom(),
    ),
    "shared memory, by fallocate": (
        (
            "RuntimeError: unable to allocate shared memory(shm) for file </torch_9166_1584530590_0>: No space left on "
            "device (28)"
        ),
        "shared memory",
    ),
    "shared memory, older": (
        "RuntimeError: unable to write to file </torch_5_1>: No space left on device (28)",
        "shared memory",
    ),
    "shared memory, by SIGBUS": (
        (
            "RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
            "workers are out of shared memory. Please try to raise your shared memory limit."
        ),
        "shared memory",
    ),
    "shared memory, by multiprocessing": (
        "OSError: [Errno 28] No space left on device: '/psm_1f2e'",
        "shared memory",
    ),
}


@pytest.mark.parametrize(("error", "expected"), SYMPTOMS.values(), ids=SYMPTOMS.keys())
def test_symptoms(error, expected):
    assert symptom(error, "") == (Symptom(expected) if isinstance(expected, str) else expected)


def test_a_bus_error_that_only_the_worker_has_printed():
    error = "RuntimeError: DataLoader worker (pid(s) 9) exited unexpectedly"
    assert symptom(error, f"step 1\n{BUS_ERROR}\n").kind == "shared memory"
    assert symptom("KeyError: 1", f"step 1\n{BUS_ERROR}\n").kind == "other"

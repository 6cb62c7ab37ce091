"""What needs a real device: every test here is marked `gpu`, and skipped with a reason where there is none."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from runner.device import CudaDevice  # noqa: E402

HERE = Path(__file__).parent
MISSING = "" if torch.cuda.is_available() else "no CUDA device here: torch.cuda.is_available() is false"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.skipif(bool(MISSING), reason=MISSING))


@pytest.fixture
def cuda() -> Iterator[Callable[..., CudaDevice]]:
    """Starts a CUDA device; its cap, its cache and its history are gone after the test."""

    def start(cap_bytes: int | None = None, *, record_history: bool = False) -> CudaDevice:
        device = CudaDevice(cap_bytes, record_history=record_history)
        device.start()
        device.read_memory()
        return device

    yield start
    torch.cuda.memory._record_memory_history(enabled=None)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1.0)

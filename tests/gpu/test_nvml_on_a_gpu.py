"""The driver's own figures beside torch's, in one process that holds a known amount of memory."""

from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")

from memdash.host.nvml import Nvml  # noqa: E402

GIB, MIB = 1 << 30, 1 << 20


def test_the_driver_sees_what_torch_holds() -> None:
    nvml = Nvml(os.environ)
    if reason := nvml.start():
        pytest.skip(f"torch has a device, NVML has none: {reason}")
    before = next(gpu for gpu in nvml.read() if gpu.cuda_index in (0, None))
    block = torch.empty(GIB, dtype=torch.uint8, device="cuda:0")
    torch.cuda.synchronize()
    nvml.list_processes({os.getpid()})
    after = next(gpu for gpu in nvml.read() if gpu.uuid == before.uuid)
    free_bytes, total_bytes = torch.cuda.mem_get_info(0)
    assert after.kind == "exact"
    assert after.total_bytes is not None
    assert after.free_bytes is not None
    assert abs(after.total_bytes - total_bytes) < GIB  # torch leaves out what the driver keeps
    assert abs(after.free_bytes - free_bytes) < 64 * MIB
    assert after.temperature_c is None or 0 < after.temperature_c < 120
    assert any(process.used_bytes is None or process.used_bytes >= GIB for process in after.processes)
    if after.own_bytes is not None and after.own_bytes > 0:
        assert after.own_bytes >= block.nbytes + 50 * MIB  # and the context

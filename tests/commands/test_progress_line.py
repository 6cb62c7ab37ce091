"""The one line that a headless run prints every few seconds."""

from __future__ import annotations

import msgspec
import pytest

from memdash import wire
from memdash.commands._watch import progress_line

GIB = 1 << 30


def state(peak_gib: float, kind: str = "exact", device: str = "cuda:0") -> wire.RunState:
    memory = wire.DeviceMemory(
        device=device,
        kind=kind,
        capacity_bytes=16 * GIB,
        allocated_bytes=2 * GIB,
        peak_allocated_bytes=int(peak_gib * GIB),
    )
    return wire.RunState(
        run_id="r",
        name="r",
        status="running",
        step=5,
        total_steps=10,
        loss=2.5,
        micro_batch=8,
        grad_accum_steps=2,
        eta_s=90.0,
        memory=memory,
    )


@pytest.mark.parametrize(
    ("peak_gib", "words"),
    [
        (8.0, "cuda:0 peak 8.00 GiB of 16.0 GiB, headroom 50% |"),
        (15.0, "headroom 6% (low) |"),
        (15.5, "headroom 3% (ALMOST FULL) |"),
    ],
)
def test_little_headroom_has_a_word(peak_gib, words):
    assert words in progress_line(state(peak_gib), 0.0)


def test_simulated_figures_say_so():
    assert "simulated peak" in progress_line(state(8.0, "simulated", "simulated"), 0.0)
    assert "t4 (simulated) peak" in progress_line(state(8.0, "simulated", "t4"), 0.0)


def test_without_a_device_there_is_no_device():
    line = progress_line(wire.RunState(run_id="r", name="r", status="paused", step=5, total_steps=10), 0.0)
    assert line == "step 5/10 | paused"


def test_a_later_attempt_shows_the_clock_of_all():
    later = msgspec.structs.replace(state(8.0), attempt=2, started_s=100.0, paused_s=30.0, past_s=5280.0)
    assert progress_line(later, 850.0).endswith("ETA 1m30s | attempt 2: 12m00s, 1h40m in all")

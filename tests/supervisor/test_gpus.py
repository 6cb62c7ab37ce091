"""A GPU that stops to answer is journaled once, and one that comes and goes does not flood the journal."""

from __future__ import annotations

import pytest

from memdash.host.gpu_watch import GpuLook
from memdash.supervisor.gpus import MOST_FALLS, GpuNews, on_gpu
from memdash.wire import GpuReading, RunState

LOST = "the driver has lost this GPU"


def look(*answers: bool | None, reason: str = "") -> GpuLook:
    """GPUs 0, 1, ... that answer or do not; None for one that is not listed."""
    gpus = [
        GpuReading(index=index, kind="exact" if fine else "unavailable", reason="" if fine else LOST)
        for index, fine in enumerate(answers)
        if fine is not None
    ]
    return GpuLook(0.0, tuple(gpus), reason)


CASES = {
    "all is well": ([look(True, True), look(True, True)], []),
    "one falls": ([look(True, True), look(True, False), look(True, False)], [f"GPU 1: no figures any more: {LOST}"]),
    "all fall": ([look(True, True), look(False, False)], [f"GPU 0, GPU 1: no figures any more: {LOST}"]),
    "one comes back": (
        [look(True), look(False), look(True), look(True)],
        [f"GPU 0: no figures any more: {LOST}", "GPU 0: figures again"],
    ),
    "never any": ([look(False), look(False)], []),
    "the first figures come late": ([look(False), look(True)], []),
    "the driver goes away": (
        [look(True), look(reason="the NVIDIA driver is installed but not loaded")],
        ["GPU 0: no figures any more: the NVIDIA driver is installed but not loaded"],
    ),
    "not listed any more": (
        [look(True, True), look(True, None)],
        ["GPU 1: no figures any more: the driver does not list it any more"],
    ),
}


@pytest.mark.parametrize(("looks", "expected"), CASES.values(), ids=CASES.keys())
def test_news(looks, expected):
    news = GpuNews()
    assert [text for each in looks for _, text in news.take(each)] == expected


def test_one_that_comes_and_goes_is_told_a_few_times():
    news = GpuNews()
    told = [line for _ in range(50) for fine in (True, False) for line in news.take(look(fine))]
    assert [level for level, _ in told] == ["warning", "good"] * (MOST_FALLS - 1) + ["warning", "good"]


@pytest.mark.parametrize(
    ("device", "watched"),
    [("", True), ("cuda", True), ("cuda:1", True), ("cpu", False), ("simulated", False), ("mps", False)],
)
def test_only_a_run_on_a_gpu_is_shown_gpus(device, watched):
    assert on_gpu(RunState(run_id="r", name="r", device=device)) is watched

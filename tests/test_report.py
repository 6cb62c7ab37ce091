"""What a record says about a run: the tightest moment, the split that fits, one sentence."""

from __future__ import annotations

import pytest

from memdash import wire
from memdash.report import Advice, Tightest, advise, make_report, sparkline, too_large, verdict

MIB = 1 << 20


def step(number: int, micro_batch: int, peak_mib: float, attempt: int = 0, loss: float = 1.0) -> tuple[int, dict]:
    return 0, {
        "time_s": 100.0 + number,
        "attempt": attempt,
        "step": number,
        "micro_batch": micro_batch,
        "loss": loss,
        "allocated_bytes": 20 * MIB,
        "peak_allocated_bytes": peak_mib * MIB,
        "capacity_bytes": 100 * MIB,
    }


def state(**changes: object) -> wire.RunState:
    fields = {"run_id": "r", "name": "r", "status": "finished", "step": 4, "total_steps": 4, "global_batch": 16}
    return wire.RunState(**{**fields, "created_s": 50.0, "started_s": 100.0, "ended_s": 190.0, **changes})


HOST = {"time_s": 100.0, "working_set_bytes": 5.0, "peak_working_set_bytes": 8.0, "capacity_bytes": 10.0}


def test_the_tightest_moments():
    rows = [step(1, 16, 80), step(2, 16, 84), step(3, 8, 52), step(4, 8, 50)]
    between = (0, rows[0][1] | {"micro_batch": None, "peak_allocated_bytes": 99 * MIB})
    report = make_report(state(), [], [HOST, HOST | {"peak_working_set_bytes": 9.0}], [*rows, between])
    device, host = report.memory
    assert (device.peak_bytes, device.step, device.headroom_bytes) == (84 * MIB, 2, 16 * MIB)
    assert device.peak_by_micro_batch == {16: 84 * MIB, 8: 52 * MIB}
    assert device.floor_bytes == 20 * MIB
    assert (host.where, host.peak_bytes, host.headroom_bytes) == ("host", 9, 1)
    assert report.advice == Advice(16, 84 * MIB, "peaks recorded at micro-batch 8, 16")


def test_attempts_are_told_apart():
    rows = [step(1, 16, 80, 0, 3.0), step(2, 16, 80, 0, 2.0), step(2, 8, 50, 1, 2.5), step(3, 8, 50, 1, 1.5)]
    found = make_report(state(), [], [], rows).attempts
    assert [(a.attempt, a.first_step, a.last_step, a.first_loss, a.last_loss) for a in found] == [
        (0, 1, 2, 3.0, 2.0),
        (1, 2, 3, 2.5, 1.5),
    ]


@pytest.mark.parametrize(
    ("capacity_mib", "peaks", "micro_batch"),
    [
        (100, {16: 84}, 16),
        (90, {16: 84}, 8),
        (60, {16: 84}, 8),
        (57, {16: 84}, 4),
        (22, {16: 84}, None),
        (100, {16: 84, 1: 60}, 16),  # what was recorded is taken as it is
        (100, {8: 52, 1: 60}, 8),
        (100, {1: 60}, 1),  # else the steepest slope counts
    ],
)
def test_the_split_that_would_fit(capacity_mib, peaks, micro_batch):
    by_micro = {micro: peak * MIB for micro, peak in peaks.items()}
    device = Tightest("device of rank 0", capacity_mib * MIB, 84 * MIB, 0.0, 1, by_micro, 20 * MIB)
    advice = advise(device, 16)
    assert advice is not None
    assert advice.micro_batch == micro_batch


def test_what_ran_out_of_memory_or_was_foretold_to_is_not_advised():
    """Peaks are recorded only of the steps that fitted."""
    texts = {
        "oom": ("out of memory in step 76, forward/backward, asked for 2 MiB; trying again: micro-batch 8 -> 4",),
        "split": (
            "micro-batch 16 -> 2: step 1,076 was forecast not to fit",
            "micro-batch 2 -> 4: 200 steps without an OOM",
        ),
    }
    journal = [
        wire.JournalEntry(seq=1, attempt=0, time_s=1.0, step=75, level="info", kind=kind, text=text)
        for kind, said in texts.items()
        for text in said
    ]
    assert too_large(journal) == {8, 16}
    device = Tightest("device of rank 0", 1000, 60, 0.0, 1, floor_bytes=10)
    device.peak_by_micro_batch = {8: 60, 4: 35}
    assert advise(device, 16).micro_batch == 16
    careful = advise(device, 16, too_large(journal))
    assert (careful.micro_batch, careful.peak_bytes) == (4, 35)
    assert careful.evidence == "peaks recorded at micro-batch 4, 8; too large for some step: 8, 16"


def test_no_advice_without_evidence():
    assert advise(Tightest("device of rank 0", 100, 50, 0.0, 1), 16) is None
    report = make_report(state(), [], [], [])
    assert (report.attempts, report.memory, report.advice) == ([], [], None)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "r finished at step 4 of 4 after 1m30s"),
        (
            {"status": "oom", "status_reason": "example 7 does not fit"},
            "r ran out of memory at step 4 of 4 after 1m30s: example 7 does not fit",
        ),
        (
            {"status": "killed", "status_reason": "the kernel's OOM killer did it"},
            "r was killed at step 4 of 4 after 1m30s: the kernel's OOM killer did it",
        ),
        ({"status": "running", "ended_s": None}, "r is running at step 4 of 4"),
        ({"attempt": 2, "past_s": 6000.0}, "r finished at step 4 of 4 after 1m30s, 1h41m in all (attempt 2)"),
        ({"status": "failed", "total_steps": 0}, "r failed before its first step after 1m30s"),
    ],
)
def test_one_sentence(changes, sentence):
    assert verdict(state(**changes)) == sentence


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [([], 5, ""), ([1.0], 5, "▁"), ([0.0, 7.0], 5, "▁█"), ([0, 1, 0, 7], 2, "▁█"), (list(range(8)), 8, "▁▂▃▄▅▆▇█")],
)
def test_sparkline_keeps_the_highest(values, width, line):
    assert sparkline(values, width) == line


def test_gpus_over_the_whole_run():
    def row(**figures: float | None) -> dict[str, float | None]:
        unknown = dict.fromkeys(("instance", "utilization_percent", "temperature_c", "power_w", "others_bytes"))
        return {"time_s": 1.0, "index": 3.0, **unknown, **figures}

    rows = [
        (0, row(utilization_percent=80.0, temperature_c=61.0, others_bytes=5.0)),
        (0, row(utilization_percent=40.0, temperature_c=70.0, power_w=300.0, others_bytes=2.0)),
        (0, row(temperature_c=65.0)),
        (1, row(instance=1.0)),
    ]
    whole, part = make_report(state(), [], [], [], rows).gpus
    assert (whole.name, whole.utilization_percent, whole.num_readings) == ("GPU 3", 60.0, 2)
    assert (whole.temperature_c, whole.power_w, whole.others_bytes) == (70.0, 300.0, 5.0)
    assert (part.name, part.utilization_percent, part.temperature_c) == ("GPU 3 MIG 1", None, None)

"""Made-up runs for the dashboard's tests, told in the supervisor's own messages; the same every time."""

from __future__ import annotations

import math
import random

from memdash import wire
from memdash.units import GIB, MIB

T0 = 1_800_000_000.0
CAPABLE = {command.__name__: "" for command in wire.COMMANDS} | {"Release": ""}
DEVICE_CAPACITY = 512 * MIB
HOST_CAPACITY = int(7.6 * GIB)


def state(**changes: object) -> wire.RunState:
    """A run in the middle of its life."""
    fields: dict[str, object] = {
        "run_id": "demo-0115-0800",
        "name": "demo",
        "status": "running",
        "phase": "training",
        "created_s": T0,
        "started_s": T0 + 1,
        "pid": 4242,
        "model": "bert",
        "device": "simulated",
        "num_parameters": 1_240_000,
        "num_examples": 4800,
        "item_name": "tokens",
        "step": 412,
        "total_steps": 1200,
        "epoch": 1,
        "steps_per_epoch": 300,
        "global_batch": 16,
        "micro_batch": 8,
        "grad_accum_steps": 2,
        "loss": 5.2314,
        "first_loss": 9.1277,
        "learning_rate": 4.2e-4,
        "step_time_s": 0.29,
        "examples_per_s": 55.0,
        "items_per_s": 3512.0,
        "eta_s": 229.0,
        "memory": device(180, 301, 352),
        "num_ooms": 1,
        "capabilities": CAPABLE,
        "linked": True,
    }
    return wire.RunState(**{**fields, **changes})  # type: ignore[arg-type]


def device(allocated: float, peak: float, reserved: float, **changes: object) -> wire.DeviceMemory:
    """A simulated device of 512 MiB; figures in MiB."""
    fields: dict[str, object] = {
        "device": "simulated",
        "kind": "simulated",
        "capacity_bytes": DEVICE_CAPACITY,
        "allocated_bytes": int(allocated * MIB),
        "peak_allocated_bytes": int(peak * MIB),
        "reserved_bytes": int(reserved * MIB),
    }
    return wire.DeviceMemory(**{**fields, **changes})  # type: ignore[arg-type]


def host(working_set_gib: float, process_gib: float = 1.0) -> wire.HostMemory:
    """A container of 7.6 GiB."""
    return wire.HostMemory(
        kind="exact",
        process_bytes=int(process_gib * GIB),
        num_processes=3,
        working_set_bytes=int(working_set_gib * GIB),
        peak_working_set_bytes=int(working_set_gib * GIB),
        capacity_bytes=HOST_CAPACITY,
        capacity_source="/sys/fs/cgroup/memory.max",
    )


def host_sample(at_s: float, working_set_gib: float, process_gib: float = 1.0) -> wire.HostSample:
    """One reading, `at_s` seconds into the run."""
    return wire.HostSample(time_s=T0 + at_s, host=host(working_set_gib, process_gib))


def step(at_s: float, number: int, memory: wire.DeviceMemory | None = None, **changes: object) -> wire.StepReport:
    """One step, `at_s` seconds into the run."""
    fields: dict[str, object] = {
        "rank": 0,
        "seq": number,
        "time_s": T0 + at_s,
        "step": number,
        "epoch": number // 300,
        "examples_seen": number * 16,
        "micro_batch": 8,
        "grad_accum_steps": 2,
        "step_time_s": 0.29,
        "loss": 5.0,
        "num_items": 1020,
        "memory": memory,
    }
    return wire.StepReport(**{**fields, **changes})  # type: ignore[arg-type]


def entry(seq: int, at_s: float, number: int, text: str, level: wire.Level = "info") -> wire.JournalEntry:
    """One journal line."""
    return wire.JournalEntry(seq=seq, time_s=T0 + at_s, attempt=0, step=number, level=level, kind="notice", text=text)


JOURNAL = (
    (0, 0, "run created: examples/demo.toml", "info"),
    (2, 0, "training process 4242 started", "info"),
    (3, 1, "training: bert, 1.24M parameters, 16 x 1 = 16", "info"),
    (31, 96, "device out of memory in forward/backward at micro-batch 16: went on with 8 x 2 = 16", "warning"),
    (60, 190, "evaluation on 512 examples: loss 6.012", "info"),
    (92, 300, "light checkpoint saved: 4.9 MiB in 0.1 s", "good"),
    (101, 331, "pause: applied at step 331", "info"),
    (104, 331, "resume: applied at step 331", "info"),
)


def life(until_s: float = 120.0) -> list[wire.FromSupervisor]:
    """A run that meets an out-of-memory error after 31 seconds and goes on with a smaller micro-batch."""
    chance = random.Random(7)
    messages: list[wire.FromSupervisor] = [state()]
    number = 0
    for tick in range(int(until_s * 2)):
        at_s = tick / 2
        warm = 1 - math.exp(-at_s / 9)
        messages.append(host_sample(at_s, 2.1 + 1.3 * warm + 0.1 * chance.random(), 0.6 + 1.2 * warm))
        if at_s < 3 or 101 <= at_s < 104:
            continue
        for part in (0.05, 0.34):
            number += 1
            messages.append(_life_step(at_s + part, number, chance))
    messages += [entry(seq, at_s, at, text, level) for seq, (at_s, at, text, level) in enumerate(JOURNAL)]  # type: ignore[arg-type]
    messages.append(wire.OutputChunk(text=OUTPUT))
    messages.append(wire.Backfilled())
    return messages


OUTPUT = """\
python-docs: 454,013 characters, 4,800 examples of 64 tokens
tokenizer: 4,000 pieces
\x1b[32mmodel: bert, 2 layers, 128 wide\x1b[0m
epoch 0:   0%|          | 0/300\repoch 0:  50%|#####     | 150/300\repoch 0: 100%|##########| 300/300
eval: 100%|##########| 32/32
epoch 1:  10%|#         | 30/300\repoch 1:  37%|###7      | 112/300"""


def _life_step(at_s: float, number: int, chance: random.Random) -> wire.StepReport:
    micro_batch = 16 if at_s < 31 else 8
    peak = 150 + micro_batch * 19 + 40 * chance.random() ** 2
    if at_s > 31 and number % 61 == 0:
        peak += 150
    return step(
        at_s,
        number,
        device(148 + 6 * chance.random(), peak, 505 if at_s < 31 else 352 + number // 40),
        loss=3.9 + 5.2 * math.exp(-number / 130) + 0.3 * chance.gauss(0, 1),
        step_time_s=0.27 + 0.05 * chance.random(),
        micro_batch=micro_batch,
        grad_accum_steps=16 // micro_batch,
        num_items=900 + int(240 * chance.random()),
    )

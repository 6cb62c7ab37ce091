"""A recorded run of many hours, made up without training: what a supervisor would have left on disk."""

from __future__ import annotations

import math
import random
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

from memdash import wire
from memdash.locations import runs_dir
from memdash.store.journal import Journal
from memdash.store.recorder import HOST_COLUMNS, RANK_COLUMNS
from memdash.store.run_directory import RunDirectory, RunRecord, create_run
from memdash.store.samples import SampleWriter
from memdash.units import GIB

CAPACITY_BYTES = 15 * GIB
JOURNAL_EVERY_S = 300.0


def make_run(run_id: str, *, ranks: int, hours: float, hz: float = 2.0) -> RunDirectory:
    """A run that has finished just now."""
    seconds = hours * 3600
    start_s = time.time() - seconds
    record = RunRecord(run_id=run_id, name=run_id, created_s=start_s, argv=["true"], cwd="/", world_size=ranks)
    directory = create_run(record, config_json=b"{}", config_toml="", parent=runs_dir())
    count = round(seconds * hz)
    times = [start_s + index / hz for index in range(count)]
    append_rows(directory.samples / "host.rec", HOST_COLUMNS, _host_rows(times))
    for rank in range(ranks):
        append_rows(directory.samples / f"rank-{rank}.rec", RANK_COLUMNS, _rank_rows(times, rank))
    _write_journal(directory, start_s, seconds, hz)
    directory.write_state(_final_state(record, count, times[-1]))
    return directory


def append_rows(path: Path, columns: tuple[str, ...], rows: Iterator[tuple[float, ...]]) -> None:
    """As the recorder would have, but in one write."""
    SampleWriter(path, columns).close()
    data = array("d")
    for row in rows:
        data.extend(row)
    with open(path, "ab") as file:
        file.write(data.tobytes())


def _host_rows(times: list[float]) -> Iterator[tuple[float, ...]]:
    chance = random.Random(1)
    for index, time_s in enumerate(times):
        used = 2.0 * GIB + index * 1e4 + chance.random() * GIB / 8
        yield (time_s, 0, used * 0.8, 9, used, used * 1.02, 64.0 * GIB)


def _rank_rows(times: list[float], rank: int) -> Iterator[tuple[float, ...]]:
    chance = random.Random(rank)
    for index, time_s in enumerate(times):
        step, floor = index + 1, 6.0 * GIB + 1e4 * chance.random()
        peak = floor + 4 * GIB * (1 + chance.random() / 4)
        loss = 2 + 7 * math.exp(-index / 9000) + chance.gauss(0, 0.1)
        figures = (loss, 1e-4, 1.0, 4096, 512)
        memory = (floor, peak * 1.05, floor, 1e8, peak, peak * 1.05, CAPACITY_BYTES, 0, 0)
        yield (time_s, 0, step, index // 20_000, step * 16 * 8, 16, 1, 0.4 + chance.random() / 9, *figures, *memory)


def _write_journal(directory: RunDirectory, start_s: float, seconds: float, hz: float) -> None:
    journal = Journal(directory.journal)
    for seq in range(1, round(seconds / JOURNAL_EVERY_S) + 1):
        after_s = seq * JOURNAL_EVERY_S
        text = f"full checkpoint of 1.20 GiB in 4.1s: checkpoints/step-{round(after_s * hz):08}-full"
        journal.append(
            wire.JournalEntry(
                seq=seq,
                time_s=start_s + after_s,
                attempt=0,
                step=round(after_s * hz),
                level="warning" if seq % 20 == 0 else "good",
                kind="checkpoint",
                text=text,
            )
        )
    journal.close()


def _final_state(record: RunRecord, steps: int, end_s: float) -> wire.RunState:
    device = wire.DeviceMemory(
        device="cuda:0", kind="exact", capacity_bytes=CAPACITY_BYTES, allocated_bytes=6 * GIB, reserved_bytes=9 * GIB
    )
    host = wire.HostMemory(
        kind="exact",
        process_bytes=3 * GIB,
        num_processes=9,
        working_set_bytes=3 * GIB,
        peak_working_set_bytes=3 * GIB,
        capacity_bytes=64 * GIB,
        capacity_source="/sys/fs/cgroup/memory.max",
    )
    return wire.RunState(
        run_id=record.run_id,
        name=record.name,
        status="finished",
        phase="ended",
        created_s=record.created_s,
        started_s=record.created_s,
        ended_s=end_s,
        step=steps,
        total_steps=steps,
        steps_per_epoch=20_000,
        world_size=record.world_size,
        global_batch=16 * record.world_size,
        micro_batch=16,
        grad_accum_steps=1,
        loss=2.0,
        first_loss=9.0,
        device="cuda:0",
        memory=device,
        host=host,
        last_words="finished",
        exit_code=0,
    )

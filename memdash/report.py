"""What a run came to, from its record: the verdict, the attempts, the tightest moments, the split that would fit (pure)."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from memdash import wire
from memdash.batching import divisors
from memdash.units import format_clock

Row = Mapping[str, float | None]

OF_OOM = re.compile(r"out of memory in .*micro-batch (\d+)")
OF_CUT = re.compile(r"micro-batch (\d+) -> \d+: step [\d,]+ was forecast not to fit")


@dataclass
class Attempt:
    """One launch of the training process."""

    attempt: int
    first_step: int = 0
    last_step: int = 0
    started_s: float = 0.0
    ended_s: float = 0.0
    first_loss: float | None = None
    last_loss: float | None = None


@dataclass
class Tightest:
    """The moment when one memory was fullest."""

    where: str
    """`host` or `device of rank 0`."""
    capacity_bytes: int
    peak_bytes: int
    time_s: float
    step: int | None
    peak_by_micro_batch: dict[int, int] = field(default_factory=dict)
    floor_bytes: int = 0
    """The least that was allocated at a step boundary: weights and optimizer state."""

    @property
    def headroom_bytes(self) -> int:
        """What was left then."""
        return self.capacity_bytes - self.peak_bytes


@dataclass(frozen=True)
class Advice:
    """The largest equal cut of the group whose peak, by the recorded ones, stays under a share of the capacity."""

    micro_batch: int | None
    """None when not even one example would fit."""
    peak_bytes: int
    """Estimated, at that micro-batch."""
    evidence: str


@dataclass
class GpuUse:
    """One GPU over the whole run, as far as the driver said."""

    name: str
    """`GPU 3`, as nvidia-smi numbers it."""
    utilization_percent: float | None = None
    """Mean of `num_readings`."""
    num_readings: int = 0
    temperature_c: float | None = None
    """The highest, as those that follow."""
    power_w: float | None = None
    others_bytes: float | None = None


@dataclass
class Report:
    """Everything that `memdash report` prints."""

    state: wire.RunState
    verdict: str
    attempts: list[Attempt]
    memory: list[Tightest]
    advice: Advice | None
    journal: list[wire.JournalEntry]
    gpus: list[GpuUse] = field(default_factory=list)


BLOCKS = "▁▂▃▄▅▆▇█"
SAFE_SHARE = 0.9  # of capacity: the same 10 % of headroom under which the dashboard turns orange


def make_report(
    state: wire.RunState,
    journal: list[wire.JournalEntry],
    hosts: Iterable[Row],
    ranks: Iterable[tuple[int, Row]],
    gpus: Iterable[tuple[int, Row]] = (),
) -> Report:
    """Reads every row once."""
    attempts: dict[int, Attempt] = {}
    devices: dict[int, Tightest] = {}
    for rank, row in ranks:
        _add_device(devices, rank, row)
        if rank == 0:
            _add_step(attempts, row)
    memory = [*devices.values(), *_host(hosts)]
    device = max(devices.values(), key=lambda tightest: tightest.peak_bytes, default=None)
    group = state.global_batch // max(1, state.world_size)
    advice = advise(device, group, too_large(journal)) if device else None
    return Report(state, verdict(state), [attempts[n] for n in sorted(attempts)], memory, advice, journal, _gpus(gpus))


def verdict(state: wire.RunState) -> str:
    """One sentence: what became of the run, where, and why."""
    outcome = {
        "finished": "finished",
        "stopped": "was stopped",
        "failed": "failed",
        "oom": "ran out of memory",
        "killed": "was killed",
        "lost": "ended unseen",
    }.get(state.status, f"is {state.status}")
    place = f" at step {state.step} of {state.total_steps}" if state.total_steps else " before its first step"
    if not state.total_steps and state.own_command:
        place = ""  # it may have no steps, or none that we are told of
    took = f" after {_took(state, state.ended_s)}" if state.ended_s else ""
    why = f": {state.status_reason}" if state.status_reason else ""
    return f"{state.run_id} {outcome}{place}{took}{why}"


def _took(state: wire.RunState, ended_s: float) -> str:
    clock = format_clock(wire.attempt_s(state, ended_s), state.past_s)
    return f"{clock} (attempt {state.attempt})" if state.attempt else clock


def too_large(journal: Sequence[wire.JournalEntry]) -> set[int]:
    """Micro-batches that ran out of memory, or were foretold to: peaks are recorded only of steps that fitted."""
    ooms = [OF_OOM.search(entry.text) for entry in journal if entry.kind == "oom"]
    cuts = [OF_CUT.search(entry.text) for entry in journal if entry.kind == "split"]
    return {int(found[1]) for found in (*ooms, *cuts) if found}


def advise(device: Tightest, group: int, failed: Collection[int] = ()) -> Advice | None:
    """The split that would fit with room to spare, estimated from what was recorded; smaller than any that `failed`.

    What was recorded is taken as it is. Else a step's peak is floor + slope x micro_batch, with the steepest slope that any
    recorded micro-batch shows, so that the estimate errs on the safe side. None when nothing was recorded to judge by.
    """
    peaks = {micro: peak for micro, peak in device.peak_by_micro_batch.items() if micro}
    if not peaks or not group:
        return None
    floor = device.floor_bytes
    slope = max((peak - floor) / micro for micro, peak in peaks.items())
    evidence = "peaks recorded at micro-batch " + ", ".join(map(str, sorted(peaks)))
    if failed:
        evidence += "; too large for some step: " + ", ".join(map(str, sorted(failed)))
    needs = {micro: peaks.get(micro, round(floor + slope * micro)) for micro in divisors(group)}
    able = (micro for micro in needs if not failed or micro < min(failed))
    best = max((micro for micro in able if needs[micro] <= SAFE_SHARE * device.capacity_bytes), default=None)
    return Advice(best, needs[best or 1], evidence)


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """A row of blocks, the highest of each column; empty for nothing."""
    count = min(width, len(values))
    edges = [index * len(values) // count for index in range(count + 1)] if count else []
    columns = [max(values[start:stop]) for start, stop in zip(edges, edges[1:], strict=False)]
    low, span = min(columns, default=0.0), max(columns, default=0.0) - min(columns, default=0.0)
    return "".join(BLOCKS[round((value - low) / span * (len(BLOCKS) - 1))] if span else BLOCKS[0] for value in columns)


def _add_step(attempts: dict[int, Attempt], row: Row) -> None:
    time_s, step = row["time_s"] or 0.0, int(row["step"] or 0)
    number = int(row["attempt"] or 0)
    attempt = attempts.get(number)
    if attempt is None:
        attempt = attempts[number] = Attempt(number, step, step, time_s, time_s)
    attempt.last_step, attempt.ended_s = max(attempt.last_step, step), time_s
    loss = row.get("loss")
    if loss is not None:
        attempt.first_loss = loss if attempt.first_loss is None else attempt.first_loss
        attempt.last_loss = loss


def _add_device(devices: dict[int, Tightest], rank: int, row: Row) -> None:
    peak, capacity, micro = row.get("peak_allocated_bytes"), row.get("capacity_bytes"), row.get("micro_batch")
    if peak is None or capacity is None or micro is None:  # no device, or a reading between steps
        return
    tightest = devices.get(rank)
    allocated = int(row.get("allocated_bytes") or 0)
    if tightest is None:
        tightest = devices[rank] = Tightest(
            f"device of rank {rank}", int(capacity), 0, 0.0, None, floor_bytes=allocated
        )
    tightest.floor_bytes = min(tightest.floor_bytes, allocated)
    tightest.peak_by_micro_batch[int(micro)] = max(int(peak), tightest.peak_by_micro_batch.get(int(micro), 0))
    if capacity - peak < tightest.headroom_bytes or tightest.step is None:
        tightest.capacity_bytes, tightest.peak_bytes = int(capacity), int(peak)
        tightest.time_s, tightest.step = row["time_s"] or 0.0, int(row["step"] or 0)


def _gpus(rows: Iterable[tuple[int, Row]]) -> list[GpuUse]:
    uses: dict[str, GpuUse] = {}
    for _, row in rows:
        instance = row.get("instance")
        name = f"GPU {row['index']:.0f}" + ("" if instance is None else f" MIG {instance:.0f}")
        use = uses.setdefault(name, GpuUse(name))
        use.temperature_c = _higher(use.temperature_c, row.get("temperature_c"))
        use.power_w = _higher(use.power_w, row.get("power_w"))
        use.others_bytes = _higher(use.others_bytes, row.get("others_bytes"))
        if (share := row.get("utilization_percent")) is not None:
            use.num_readings += 1
            mean = use.utilization_percent or 0.0
            use.utilization_percent = mean + (share - mean) / use.num_readings
    return list(uses.values())


def _higher(one: float | None, other: float | None) -> float | None:
    return max((value for value in (one, other) if value is not None), default=None)


def _host(hosts: Iterable[Row]) -> list[Tightest]:
    tightest: Tightest | None = None
    for row in hosts:
        used = max(row.get("peak_working_set_bytes") or 0, row.get("working_set_bytes") or 0)
        capacity = row.get("capacity_bytes") or 0
        if tightest is None or capacity - used < tightest.headroom_bytes:
            tightest = Tightest("host", int(capacity), int(used), row["time_s"] or 0.0, None)
    return [tightest] if tightest else []

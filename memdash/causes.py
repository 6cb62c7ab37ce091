"""Why memory moved, in plain words: one rule for each cause (pure; time comes with the samples).

A rule looks at a window of readings and says nothing, or one sentence with the figures it rests on and the remedy. What
was said is not said again while it lasts, nor within QUIET_S of its end.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from memdash.units import format_bytes, format_duration, format_percent
from memdash.wire import DeviceMemory, GpuSample, HostMemory, HostSample, Level, StepReport, host_headroom_bytes

WINDOW_S = 120.0
MAX_READINGS = 512
QUIET_S = 600.0
MUCH = 0.05
"""Part of the capacity below which nothing is worth a sentence."""
WASTED = 0.10
"""Part of the device that fragmentation may hold before it is named."""
FULL, ROOMY = 0.90, 0.25
STALLED = 0.10
OFTEN = 2
"""Steps that had to flush the cache; one alone may just have been larger than those before it."""
SHM_FULL = 0.90


@dataclass(frozen=True)
class Cause:
    """One sentence for the journal."""

    name: str
    level: Level
    text: str


class Causes:
    """The readings of the last two minutes of one run, and what was said of them."""

    def __init__(self) -> None:
        self._steps: dict[tuple[int, str], deque[StepReport]] = {}
        self._hosts: deque[HostSample] = deque(maxlen=MAX_READINGS)
        self._others: dict[str, deque[tuple[float, int]]] = {}
        self._said: dict[str, float] = {}

    def step(self, report: StepReport) -> list[Cause]:
        """A step of one rank."""
        if report.memory is None or report.memory.kind == "unavailable":
            return []
        steps = self._steps.setdefault((report.rank, report.memory.device), deque(maxlen=MAX_READINGS))
        steps.append(report)
        _forget(steps, report.time_s)
        return self._news(report.time_s, f"rank {report.rank} ", _of_steps(steps))

    def host(self, sample: HostSample, phase: str) -> list[Cause]:
        """CPU RAM, and what the run is busy with."""
        self._hosts.append(sample)
        _forget(self._hosts, sample.time_s)
        return self._news(sample.time_s, "host ", _of_host(self._hosts, phase))

    def gpus(self, sample: GpuSample) -> list[Cause]:
        """What the driver says."""
        found = []
        for gpu in sample.gpus:
            if gpu.others_bytes is None or not gpu.total_bytes:
                continue
            readings = self._others.setdefault(gpu.uuid or str(gpu.index), deque(maxlen=MAX_READINGS))
            readings.append((sample.time_s, gpu.others_bytes))
            while readings[0][0] < sample.time_s - WINDOW_S:
                readings.popleft()
            grown = gpu.others_bytes - min(size for _, size in readings)
            if grown > MUCH * gpu.total_bytes:
                who = max((one for one in gpu.processes if one.ours is False), key=_size, default=None)
                text = f"other processes took {format_bytes(grown)} of GPU {gpu.index} in the last minutes"
                text += f"; the largest is {who.name or 'pid'} {who.pid}, {format_bytes(who.used_bytes)}" if who else ""
                found.append(Cause(f"others {gpu.index}", "warning", text))
        return self._news(sample.time_s, "gpus ", found)

    def _news(self, time_s: float, scope: str, found: Iterator[Cause] | list[Cause]) -> list[Cause]:
        """Those that were not said lately; while a cause lasts its silence is renewed."""
        news = []
        for cause in found:
            said_s = self._said.get(scope + cause.name)
            if said_s is None or time_s - said_s > QUIET_S:
                news.append(cause)
            self._said[scope + cause.name] = time_s
        return news


def _forget(readings: deque[StepReport] | deque[HostSample], now_s: float) -> None:
    while readings[0].time_s < now_s - WINDOW_S:
        readings.popleft()


def _size(process: object) -> int:
    return getattr(process, "used_bytes", None) or 0


# ---- the device ------------------------------------------------------------------------------------------------------


def _of_steps(steps: deque[StepReport]) -> Iterator[Cause]:
    first, last = steps[0].memory, steps[-1].memory
    assert first is not None
    assert last is not None
    if len(steps) > 1 and (before := steps[-2].memory) and last.num_alloc_retries > before.num_alloc_retries:
        flushes = sum(
            a.memory.num_alloc_retries < b.memory.num_alloc_retries
            for a, b in itertools.pairwise(steps)
            if a.memory and b.memory
        )
        if cause := _fragmentation(first, last, flushes, len(steps)):
            yield cause
    if cause := _neighbour(first, last, steps[-1].time_s - steps[0].time_s):
        yield cause


def _fragmentation(first: DeviceMemory, last: DeviceMemory, flushes: int, steps: int) -> Cause | None:
    """The allocator had to flush its cache again and again, and at the peak of such a step holds much that nothing uses."""
    if last.peak_reserved_bytes is None or last.peak_allocated_bytes is None or not last.capacity_bytes:
        return None
    wasted = last.peak_reserved_bytes - last.peak_allocated_bytes
    if flushes < OFTEN or wasted < WASTED * last.capacity_bytes or last.num_ooms > first.num_ooms:
        return None  # or a step that was too large has emptied the cache
    text = (
        f"fragmentation: at the peak torch holds {format_bytes(wasted)} that no tensor fits into, and it had to flush its "
        f"cache in {flushes} of the last {steps} steps"
    )
    if not last.joins_fragments:
        text += "; PYTORCH_ALLOC_CONF=expandable_segments:True lets it join the pieces"
    return Cause("fragmentation", "warning", text)


def _neighbour(first: DeviceMemory, last: DeviceMemory, span_s: float) -> Cause | None:
    """What is neither free nor torch's own has grown: another process, or libraries outside torch's allocator."""
    before, now = _outside(first), _outside(last)
    if before is None or now is None or not last.total_bytes or now - before < MUCH * last.total_bytes:
        return None
    grown, time = format_bytes(now - before), format_duration(span_s)
    return Cause("neighbour", "warning", f"{last.device}: others than torch took {grown} of the device within {time}")


def _outside(memory: DeviceMemory) -> int | None:
    if memory.kind != "exact" or memory.total_bytes is None or memory.free_bytes is None:
        return None
    return memory.total_bytes - memory.free_bytes - (memory.reserved_bytes or 0)


# ---- the host --------------------------------------------------------------------------------------------------------


def _of_host(hosts: deque[HostSample], phase: str) -> Iterator[Cause]:
    first, last = hosts[0].host, hosts[-1].host
    if not last.capacity_bytes:
        return
    span = format_duration(hosts[-1].time_s - hosts[0].time_s)
    for cause in (
        _page_cache(last),
        _workers(first, last, span),
        _saving(last, phase),
        _throttled(first, last),
        _stalled([sample.host for sample in hosts]),
        _alarmed([sample.host for sample in hosts]),
        _swapping(first, last, span),
        _shared_memory(last),
    ):
        if cause:
            yield cause


def _page_cache(host: HostMemory) -> Cause | None:
    """It looks full, but is not."""
    looks = host.working_set_bytes + host.reclaimable_bytes
    headroom = host_headroom_bytes(host) or 0
    if looks < FULL * host.capacity_bytes or headroom < ROOMY * host.capacity_bytes:
        return None
    cache, share = format_bytes(host.reclaimable_bytes), format_percent(looks / host.capacity_bytes)
    text = f"host memory looks {share} full, but {cache} of that is page cache, which the kernel drops first: no danger"
    return Cause("page cache", "info", text)


def _workers(first: HostMemory, last: HostMemory, span: str) -> Cause | None:
    """The children of the training process grow: DataLoader workers with what they prefetch."""
    if last.num_processes < 2 or not (last.main_process_bytes and first.main_process_bytes):
        return None
    now = last.process_bytes - last.main_process_bytes
    grown = now - (first.process_bytes - first.main_process_bytes)
    if grown < MUCH * last.capacity_bytes or grown <= last.main_process_bytes - first.main_process_bytes:
        return None
    count, more = last.num_processes - 1, f"{format_bytes(grown)} more than {span} ago"
    text = f"the {count} child processes hold {format_bytes(now)}, {more}"
    return Cause("workers", "warning", f"{text}: fewer DataLoader workers or a smaller prefetch_factor take less")


def _saving(host: HostMemory, phase: str) -> Cause | None:
    """A checkpoint is being written and memory spikes."""
    spike = host.peak_process_bytes - host.process_bytes
    if phase != "saving" or spike < MUCH * host.capacity_bytes:
        return None
    text = f"saving the checkpoint took {format_bytes(spike)} of host memory for a moment: keep that much headroom"
    return Cause("saving", "info", text)


def _throttled(first: HostMemory, last: HostMemory) -> Cause | None:
    """Over memory.high the kernel makes every allocation wait."""
    if last.num_throttled <= first.num_throttled:
        return None
    where = format_bytes(last.throttle_bytes)
    return Cause("throttled", "warning", f"over memory.high ({where}): the kernel slows the run down to reclaim memory")


def _stalled(hosts: list[HostMemory]) -> Cause | None:
    """All processes wait for memory for a good part of the time, not only at one moment."""
    shares = [host.stalled_full for host in hosts[-10:] if host.stalled_full is not None]
    if len(shares) < 10 or sum(shares) / len(shares) < STALLED:
        return None
    share = format_percent(sum(shares) / len(shares))
    text = f"memory pressure: {share} of the time nothing runs, because all wait for memory"
    return Cause("stalled", "warning", text)


def _alarmed(hosts: list[HostMemory]) -> Cause | None:
    """The kernel's own alarm, which comes before the averages show anything."""
    if len(hosts) < 2 or hosts[-1].num_stall_alarms <= hosts[-2].num_stall_alarms:
        return None
    share = hosts[-1].stalled_some or 0.0
    told = f": {format_percent(share)} of the last moments" if share >= 0.01 else ""
    return Cause("pressed", "warning", f"memory pressure: processes begin to wait for memory{told}")


def _swapping(first: HostMemory, last: HostMemory, span: str) -> Cause | None:
    """What is swapped out is slow to come back."""
    grown = last.swap_bytes - first.swap_bytes
    if grown < MUCH * last.capacity_bytes:
        return None
    text = f"{format_bytes(grown)} of the run was swapped out within {span}: steps get slow"
    return Cause("swapping", "warning", text)


def _shared_memory(host: HostMemory) -> Cause | None:
    """A full /dev/shm ends DataLoader workers with a bus error."""
    used, size = host.shm_bytes, host.shm_capacity_bytes
    if used is None or not size or used < SHM_FULL * size:
        return None
    text = (
        f"/dev/shm is {format_percent(used / size)} full of {format_bytes(size)}: when it is full, DataLoader workers"
    )
    return Cause("shared memory", "error", f"{text} die of a bus error; docker run --shm-size or --ipc=host gives more")

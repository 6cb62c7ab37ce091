"""Where the memory is: every byte of a device or a host in exactly one row, so that the rows add up to the total (pure).

What the rows leave over is a row itself, "unexplained", never spread over the others: readings of two sources are a
fraction of a second apart, and a driver may keep to itself what it uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memdash.units import format_bytes
from memdash.wire import DeviceMemory, GpuReading, HostMemory, MemoryKind

TORCH = "torch"
DRIVER = "NVML"
CUDA = "cudaMemGetInfo"


@dataclass(frozen=True)
class Row:
    """One use of memory."""

    name: str
    size_bytes: int | None
    """None = nobody tells."""
    kind: MemoryKind
    source: str
    note: str = ""
    """What it is, and what could be done about it, in words for a person."""


@dataclass(frozen=True)
class Ledger:
    """Rows that add up to the total."""

    what: str
    total_bytes: int
    source: str
    """What names the total."""
    rows: Sequence[Row]

    def share(self, row: Row) -> float | None:
        """A row as a part of the total, 0 to 1."""
        return row.size_bytes / self.total_bytes if row.size_bytes is not None and self.total_bytes else None


def device_ledger(memory: DeviceMemory | None, gpu: GpuReading | None = None) -> Ledger | None:
    """One device: allocated + inactive + slack of torch's allocator + the rest of this process + others + free.

    `gpu` is the driver's reading of the same device. None when not even its size is known.
    """
    if memory is None or memory.allocated_bytes is None or memory.reserved_bytes is None:
        return None
    if memory.total_bytes is None and memory.capacity_bytes is not None:  # a recording keeps no more than these
        free_bytes = max(0, memory.capacity_bytes - memory.reserved_bytes)
        rows = [*_torch_rows(memory), Row("free", free_bytes, memory.kind, "the rest")]
        capacity = memory.capacity_bytes
        return Ledger(memory.device, capacity, "the capacity of this process", _with_residue(rows, capacity))
    if memory.total_bytes is None:
        return None
    total, kind = memory.total_bytes, memory.kind
    source = "device.capacity" if kind == "simulated" else CUDA
    outside = _outside_torch(memory, gpu) if kind != "simulated" else []
    free = Row("free", memory.free_bytes, kind, source if kind != "simulated" else "the rest")
    rows = [*_torch_rows(memory), *outside, free]
    return Ledger(memory.device, total, source, _with_residue(rows, total))


def host_ledger(host: HostMemory | None) -> Ledger | None:
    """Host memory under the ceiling that binds: this run + all else under the same ceiling + page cache + free."""
    if host is None or not host.capacity_bytes:
        return None
    capacity, source = host.capacity_bytes, host.capacity_source
    if source.startswith("RLIMIT"):
        used = "address space that the training process has asked for, touched or not: that is what this limit counts"
        rows = [Row("address space", host.working_set_bytes, host.kind, "/proc/PID/statm", used)]
    else:
        processes = f"{host.num_processes} processes" if host.num_processes != 1 else "The training process alone"
        exact = host.kind == "exact"
        note = f"{processes}; pages that they share are counted {'once' if exact else 'in each of them: there is no /proc'}."
        if host.swap_bytes:
            note += f" A further {format_bytes(host.swap_bytes)} of them is swapped out."
        rows = [Row("this run", host.process_bytes, host.kind, "/proc/PID/statm" if exact else "psutil", note)]
        if source != "memory.host_budget":
            rows.append(_other_host_memory(host))
    if host.reclaimable_bytes:
        note = "Files read or written before: the kernel drops them before it refuses anything, so this is headroom."
        rows.append(Row("page cache", host.reclaimable_bytes, host.kind, _usage_source(source), note))
    free = capacity - host.working_set_bytes - host.reclaimable_bytes
    rows.append(Row("free", max(0, free), host.kind, "the rest"))
    return Ledger("host", capacity, source, _with_residue(rows, capacity))


def _torch_rows(memory: DeviceMemory) -> list[Row]:
    """What torch's caching allocator has reserved, by what it does with it."""
    allocated, reserved, kind = memory.allocated_bytes or 0, memory.reserved_bytes or 0, memory.kind
    active = allocated if memory.active_bytes is None else max(allocated, memory.active_bytes)
    pieces = memory.inactive_split_bytes or 0
    cached = reserved - active - pieces
    rows = [Row("tensors", allocated, kind, TORCH, _peak_note(memory))]
    if active > allocated:
        note = "Freed, but a stream may still read it: it comes back by itself."
        rows.append(Row("awaiting a stream", active - allocated, kind, TORCH, note))
    if pieces:
        note = "Gaps beside live tensors: only tensors that are small enough fit in, and `e` cannot give them back."
        if memory.joins_fragments:
            note = "Gaps beside live tensors, which count as headroom here."
        rows.append(Row("fragments", pieces, kind, TORCH, note))
    if cached >= 0:
        note = f"{format_bytes(cached)} is reserved by torch but unused: `e` gives it back to the device."
        rows.append(Row("cached", cached, kind, TORCH, note if cached else "Nothing is reserved and unused."))
    return rows


def _peak_note(memory: DeviceMemory) -> str:
    peak = memory.peak_allocated_bytes
    return f"At the peak of the last step it was {format_bytes(peak)}." if peak is not None else ""


def _outside_torch(memory: DeviceMemory, gpu: GpuReading | None) -> list[Row]:
    """What the device holds besides torch's allocator: of this process, of others, of the driver."""
    reserved, total = memory.reserved_bytes or 0, memory.total_bytes or 0
    context = "CUDA context, NCCL, cuBLAS and cuDNN workspaces: fixed costs of this process."
    if gpu is None or gpu.own_bytes is None:
        if memory.free_bytes is None:
            return []
        rest = max(0, total - memory.free_bytes - reserved)
        why = (gpu.reason if gpu else "") or "the driver does not tell them apart here"
        return [Row("outside torch", rest, "estimated", CUDA, f"{context} And other processes: {why}.")]
    rows = [Row("rest of this run", max(0, gpu.own_bytes - reserved), "estimated", DRIVER, context)]
    listed = [
        f"{process.name or 'pid'} {process.pid} {format_bytes(process.used_bytes)}"
        for process in gpu.processes
        if process.ours is False
    ]
    others = ", ".join(listed[:3]) + (" ..." if len(listed) > 3 else "")
    kind: MemoryKind = "exact" if gpu.others_bytes is not None else "unavailable"
    rows.append(Row("other processes", gpu.others_bytes, kind, DRIVER, others or "None that the driver lists."))
    if gpu.reserved_bytes:
        rows.append(Row("driver", gpu.reserved_bytes, "exact", DRIVER, "Kept by driver and firmware."))
    return rows


def _other_host_memory(host: HostMemory) -> Row:
    rest = max(0, host.working_set_bytes - host.process_bytes)
    where = "on this machine" if host.capacity_source.startswith(("/proc", "psutil")) else "in the same cgroup"
    note = f"Other processes {where}, shared memory that no process maps, and the kernel's own."
    return Row("all else", rest, "estimated", _usage_source(host.capacity_source), note)


def _usage_source(capacity_source: str) -> str:
    if capacity_source.startswith("/proc/meminfo"):
        return "/proc/meminfo"
    return "memory.stat" if "memory." in capacity_source else capacity_source


def _with_residue(rows: list[Row], total_bytes: int) -> list[Row]:
    residue = total_bytes - sum(row.size_bytes or 0 for row in rows)
    if not residue:
        return rows
    if residue < 0:
        note = "Rows overlap by this much: file pages of the processes that are page cache, too, or readings of two moments."
    elif any(row.size_bytes is None for row in rows):
        note = "At least one row is unknown; this is what is left for it."
    else:
        note = "Readings of different moments, or memory that nobody accounts for."
    return [*rows, Row("unexplained", residue, "estimated", "the total less the rows above", note)]

"""Say what this machine offers: memory limits and their files, devices, torch, sockets, terminal; and what is missing."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from memdash.errors import ExitCode, MemdashError

if TYPE_CHECKING:
    from memdash.wire import GpuReading

Finding = tuple[str, str, str]
"""What was looked at, `ok`, `missing` or `note`, and what was found."""

MOST_USERS = 4  # of a GPU that are named
TORCH_TIMEOUT_S = 120.0  # a cold import from a network disk


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Look at everything; nothing that is missing is an error."""
    import json

    for what, verdict, text in findings():
        if args.json:
            print(json.dumps({"what": what, "verdict": verdict, "text": text}))
        else:
            print(f"{ {'ok': ' ok ', 'missing': ' -- ', 'note': '    '}[verdict] }{what:<18} {text}", flush=True)
    return ExitCode.OK


def findings() -> Iterator[Finding]:
    """Everything, the quick ones first."""
    from memdash import __version__

    yield "memdash", "ok", f"{__version__}, Python {sys.version.split()[0]}, {sys.executable}"
    yield from _host()
    yield from _places()
    yield from _terminal()
    yield from _nvml()
    yield _compiler()
    yield _torch()


def _host(root: Path = Path("/")) -> Iterator[Finding]:
    from memdash.host.capacity import cgroup_levels
    from memdash.host.ceilings import binding, find_ceilings
    from memdash.host.pressure import pressure_file
    from memdash.host.process_tree import ProcessTree
    from memdash.units import format_bytes

    tree = ProcessTree(os.getpid(), reset_peaks=False)
    tree.refresh()
    reading = tree.read()
    tree.close()
    if not (root / "proc/self").is_dir():
        yield (
            "process memory",
            "note",
            "no /proc: psutil tells, counts shared pages in each process and sees no brief peaks",
        )
    ceilings = find_ceilings(root=root)
    for ceiling in ceilings:
        left = format_bytes(ceiling.limit_bytes - ceiling.fill(reading).used_bytes)
        yield "memory limit", "ok", f"{format_bytes(ceiling.limit_bytes)}, headroom {left}  ({ceiling.source})"
    levels = cgroup_levels("self", root)
    for level in levels:
        if level.limit_bytes() is None and level.limit_file.exists():
            yield f"cgroup v{level.version}", "ok", f"no limit  ({level.limit_file})"
        if throttle := level.throttle_bytes():
            yield "memory.high", "note", f"{format_bytes(throttle)}: above it the kernel slows us down  ({level.path})"
        if level.kills_together():
            yield "memory.oom.group", "note", f"one OOM kills everything in {level.path}, the supervisor too"
    if not levels:
        yield "cgroup", "missing", "no memory cgroup is visible: the machine's memory is taken as the limit"
    first = binding(ceilings, reading)
    headroom = format_bytes(first.limit_bytes - first.fill(reading).used_bytes)
    yield "effective limit", "ok", f"{format_bytes(first.limit_bytes)}, headroom {headroom}  ({first.source})"
    yield _pressure(pressure_file(levels, root))
    yield _oom_kills()
    if os.path.isdir("/dev/shm"):
        yield "/dev/shm", "ok", f"{format_bytes(_size('/dev/shm'))}, in which DataLoader workers hand batches over"


def _pressure(path: Path) -> Finding:
    """Whether the kernel tells how long processes wait for memory, and whether it does so by itself."""
    from memdash.host.pressure import PressureTrigger

    if not path.exists():
        return "pressure stall", "missing", "no PSI: this kernel does not tell how long processes wait for memory"
    try:
        PressureTrigger(path).close()
    except OSError as error:
        return "pressure stall", "ok", f"{path}, read twice a second; it takes no trigger: {error.strerror or error}"
    return "pressure stall", "ok", f"{path}, with a trigger: the kernel tells at once of 150 ms of waiting in 2 s"


def _oom_kills() -> Finding:
    """What will tell of a kill by the kernel's OOM killer."""
    from memdash.host.oom_evidence import OomWatch

    evidence = OomWatch.begin(os.getpid()).evidence()
    told = [f"{level.name} counts them" for level in evidence.levels[:1] if level.kills is not None]
    told += ["/proc/vmstat counts the machine's"] if evidence.machine_kills is not None else []
    told += ["the kernel's log names them"] if evidence.log is not None else []
    return "OOM kills", "ok" if told else "missing", ", ".join(told) or "nothing tells of them here"


def _size(path: str) -> int:
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize


def _places() -> Iterator[Finding]:
    import shutil

    from memdash.locations import runs_dir, sockets_dir
    from memdash.units import format_bytes

    try:
        yield "sockets", "ok", str(sockets_dir())
    except (MemdashError, OSError) as error:
        yield "sockets", "missing", str(error)
    path = runs_dir()
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if os.access(there, os.W_OK):
        yield "runs", "ok", f"{path}, {format_bytes(shutil.disk_usage(there).free)} free"
    else:
        yield "runs", "missing", f"{there} cannot be written: set MEMDASH_RUNS_DIR"


def _terminal() -> Iterator[Finding]:
    from memdash.commands._watch import terminal_problem

    problem = terminal_problem()
    size = os.get_terminal_size(2) if os.isatty(2) else None
    shown = f"{size.columns}x{size.lines}, TERM={os.environ.get('TERM', '')}" if size else ""
    yield "terminal", "missing" if problem else "ok", problem or shown
    encoding = sys.stderr.encoding or "unknown"
    utf8 = encoding.lower().replace("-", "") == "utf8"
    yield "encoding", "ok" if utf8 else "missing", encoding if utf8 else f"{encoding}: plots need UTF-8"


def _nvml() -> Iterator[Finding]:
    from memdash.host.gpu_watch import STALE_S, GpuWatch

    watch = GpuWatch(os.environ)
    watch.start()
    look = watch.wait(STALE_S + 1)
    watch.close()
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        yield "visible devices", "note", f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']}"
    if look.reason:
        yield "NVML", "missing", look.reason
    for gpu in look.gpus:
        name = f"GPU {gpu.index}" if gpu.instance is None else f"GPU {gpu.index} MIG {gpu.instance}"
        yield name, "missing" if gpu.kind == "unavailable" else "ok", ", ".join(filter(None, _gpu_words(gpu)))
        if gpu.processes:
            yield "", "note", f"on it: {_users(gpu)}"
        if gpu.reason and gpu.kind != "unavailable":
            yield "", "note", gpu.reason


def _gpu_words(gpu: GpuReading) -> Iterator[str]:
    from memdash.units import format_bytes

    yield gpu.name
    if gpu.kind == "unavailable":
        yield gpu.reason
        return
    yield f"{format_bytes(gpu.free_bytes)} free of {format_bytes(gpu.total_bytes)}"
    for value, unit in ((gpu.utilization_percent, "% busy"), (gpu.temperature_c, "°C"), (gpu.power_w, " W")):
        yield f"{value:.0f}{unit}" if value is not None else ""
    yield f"cuda:{gpu.cuda_index}" if gpu.cuda_index is not None else ""
    yield gpu.uuid


def _users(gpu: GpuReading) -> str:
    from memdash.units import format_bytes

    shown = gpu.processes[:MOST_USERS]
    words = [f"{process.name or 'pid'} {process.pid} {format_bytes(process.used_bytes)}" for process in shown]
    more = (gpu.num_processes or 0) - len(shown)
    return ", ".join([*words, *([f"{more} more"] if more > 0 else [])])


def _compiler() -> Finding:
    import shutil

    path = shutil.which(os.environ.get("CXX", "g++"))
    if path:
        return "C++ compiler", "ok", f"{path}: the simulated device counts every byte"
    return "C++ compiler", "missing", "the simulated device falls back to counting in Python, at 1.6 times the CPU"


def _torch() -> Finding:
    """In a process of its own: importing torch takes seconds and stays for ever."""
    import subprocess

    code = (
        "import torch; n = torch.cuda.device_count(); "
        "print(torch.__version__, f'{n} CUDA device(s)' if n else 'no CUDA device', sep=', ')"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=TORCH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return "torch", "missing", f"not imported within {TORCH_TIMEOUT_S:.0f} s"
    if done.returncode:
        return "torch", "missing", "not installed: pip install 'memdash[train]'"
    return "torch", "ok", done.stdout.strip()

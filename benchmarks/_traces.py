"""Recorded traces in files: what was sampled and reported, compactly, and what became of the run."""

from __future__ import annotations

import json
import lzma
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import msgspec

from memdash import wire

CORPUS = Path(__file__).parent / "corpus"
SUFFIX = ".trace"
XZ = b"\xfd7zXZ"
TICKS, TICKS_BEFORE = 50, 1000
"""A second; a supervisor's beat has five of them. Older traces are finer, and packed by zlib."""
HOST = ("process_bytes", "num_processes", "working_set_bytes", "peak_working_set_bytes", "capacity_bytes")
STEP = ("step", "micro_batch", "longest")
DEVICE = (
    "capacity_bytes",
    "allocated_bytes",
    "reserved_bytes",
    "inactive_split_bytes",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "num_alloc_retries",
    "num_ooms",
)
Split = Literal["tuning", "seen", "scoring"]
"""Folders of the corpus: tuned on; scored once, then looked at, and what was wrong mended; and only scored."""


@dataclass(frozen=True)
class Fate:
    """What became of the run."""

    died_of: str
    """`host`, `device`, or empty: it trained to its end."""
    how: str
    time_s: float
    """Unix time of its end."""
    step: int
    """The one that it died in, or its last."""


@dataclass(frozen=True)
class Trace:
    """One recorded run; the messages are as a supervisor gets them, in the order of their times."""

    name: str
    started_s: float
    fate: Fate
    messages: list[wire.Message]

    @property
    def seconds(self) -> float:
        """From the start of the process to its end."""
        return self.fate.time_s - self.started_s


def path_of(name: str, split: Split) -> Path:
    """Where a trace lies."""
    return CORPUS / split / (name + SUFFIX)


def save(trace: Trace, split: Split) -> Path:
    """One file: columns of integers, each as differences, and what is rare as it was sent."""
    hosts = [message for message in trace.messages if isinstance(message, wire.HostSample)]
    steps = [message for message in trace.messages if isinstance(message, wire.StepReport)]
    rest = [message for message in trace.messages if not isinstance(message, wire.HostSample | wire.StepReport)]
    sources = sorted({sample.host.capacity_source for sample in hosts})
    content = {
        "name": trace.name,
        "ticks": TICKS,
        "started_s": trace.started_s,
        "fate": asdict(trace.fate),
        "sources": sources,
        "host": {
            "time": _times(hosts, trace.started_s),
            "source": _differences(sources.index(sample.host.capacity_source) for sample in hosts),
            **{name: _differences(getattr(sample.host, name) for sample in hosts) for name in HOST},
        },
        "steps": {
            "time": _times(steps, trace.started_s),
            "took": _differences(round(step.step_time_s * TICKS) for step in steps),
            **{name: _differences(getattr(step, name) for step in steps) for name in STEP},
        },
        "device": {
            name: _differences(getattr(step.memory, name) or 0 for step in steps if step.memory) for name in DEVICE
        },
        "rest": [msgspec.to_builtins(message) for message in rest],
    }
    path = path_of(trace.name, split)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(lzma.compress(json.dumps(content, separators=(",", ":")).encode(), preset=9))
    return path


def load(path: Path) -> Trace:
    """As it was saved; what was not recorded is zero or None."""
    packed = path.read_bytes()
    unpack = lzma.decompress if packed.startswith(XZ) else zlib.decompress
    content = json.loads(unpack(packed))
    started_s, ticks = content["started_s"], content.get("ticks", TICKS_BEFORE)
    messages: list[wire.Message] = [
        *_hosts(content["host"], content["sources"], started_s, ticks),
        *_steps(content["steps"], content["device"], started_s, ticks),
        *(msgspec.convert(message, wire.Telemetry) for message in content["rest"]),
    ]
    messages.sort(key=lambda message: getattr(message, "time_s", 0.0))
    return Trace(content["name"], started_s, Fate(**content["fate"]), messages)


def traces(split: Split) -> list[Trace]:
    """Those of one split, by name."""
    return [load(path) for path in sorted((CORPUS / split).glob("*" + SUFFIX))]


def _hosts(
    columns: dict[str, list[int]], sources: Sequence[str], started_s: float, ticks: int
) -> Iterator[wire.HostSample]:
    for row in _rows(columns):
        host = wire.HostMemory(
            kind="exact", capacity_source=sources[row["source"]], **{name: row[name] for name in HOST}
        )
        yield wire.HostSample(time_s=started_s + row["time"] / ticks, host=host)


def _steps(
    columns: dict[str, list[int]], device: dict[str, list[int]], started_s: float, ticks: int
) -> Iterator[wire.StepReport]:
    memories: Iterable[dict[str, Any]] = _rows(device) if device[DEVICE[0]] else ()
    readings = iter(memories)
    for row in _rows(columns):
        reading = next(readings, None)
        memory = wire.DeviceMemory(device="simulated", kind="simulated", **reading) if reading else None
        yield wire.StepReport(
            rank=0, seq=row["step"], time_s=started_s + row["time"] / ticks, epoch=0, examples_seen=0,
            grad_accum_steps=1, step_time_s=row["took"] / ticks, loss=None, memory=memory,
            **{name: row[name] for name in STEP},
        )  # fmt: skip


def _times(messages: Iterable[Any], started_s: float) -> list[int]:
    return _differences(round((message.time_s - started_s) * TICKS) for message in messages)


def _differences(values: Iterable[int]) -> list[int]:
    listed = list(values)
    return [*listed[:1], *(after - before for before, after in pairwise(listed))]


def _rows(columns: dict[str, list[int]]) -> Iterator[dict[str, int]]:
    names = list(columns)
    for values in zip(*(accumulate(columns[name]) for name in names), strict=True):
        yield dict(zip(names, values, strict=True))

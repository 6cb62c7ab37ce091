"""Asks the planning process: for what it plans, how it is started, and what it answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from memdash import wire
from memdash.errors import ExitCode, MemdashError, UsageError
from memdash.units import GIB, MIB, format_bytes, parse_bytes, parse_duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memdash.config import RunConfig

TIMEOUT_S = 600.0  # a model of a billion parameters is initialised in the planning process
PROBE_S = 120.0  # a person is waiting, and a step that takes a minute has told enough by not ending
ONLY_OURS = "only what memdash's own runner trains can be planned, and this is a program of yours"
SAFE = 0.8  # of the free host memory: a probe must never be what drives the machine into its end
CONTEXT_BYTES = 500 * MIB  # CUDA's own share of a card: 300 to 600 MiB, by card and driver


class NotPlanned(MemdashError):
    """The task failed with an error of its own."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message)
        self.traceback = traceback


class Card(NamedTuple):
    """What a plan must know of a GPU."""

    gib: float
    """What torch finds: less than its name says, for the driver and error correction keep some."""
    half: str = "bf16"
    """The half precision that it computes fast."""
    workspace_mib: int = 17
    """Of cuBLAS, once for the forward and once for the backward, which torch runs in a thread of its own."""


GPUS = {
    "t4": Card(14.56, "fp16"),
    "p100": Card(15.89, "fp16"),
    "v100": Card(15.77, "fp16"),
    "v100-32": Card(31.73, "fp16"),
    "l4": Card(21.9),
    "a10": Card(21.9),
    "a100-40": Card(39.38),
    "a100-80": Card(79.14),
    "h100": Card(79.10, workspace_mib=64),
}


class Target(NamedTuple):
    """What a config is planned for."""

    source: str
    """Where the capacity comes from, as shown; empty where the planning process finds out."""
    options: list[str]
    """What the planning process is told of it."""


def target(config: RunConfig, *, gpu: str = "", capacity: str = "") -> Target:
    """A card, a size, or what the config and this machine say. Raises UsageError."""
    budget = config.memory.host_budget
    free_bytes, ceiling = host_memory(parse_bytes(budget) if budget else 0)
    told = ["--host", str(free_bytes), "--host-name", ceiling]
    if gpu:
        card = GPUS[gpu]
        framework = CONTEXT_BYTES + card.workspace_mib * MIB
        told += ["--gpu", "--framework", str(framework), "--half", card.half]
        return Target(f"--gpu {gpu}", [*told, "--capacity", str(round(card.gib * GIB))])
    told += ["--framework", str(CONTEXT_BYTES + Card(0).workspace_mib * MIB)]
    if config.device.kind == "cuda":
        told.append("--gpu")
    if capacity:
        try:
            size = parse_bytes(capacity)
        except ValueError as error:
            raise UsageError(f"--capacity: {error}") from None
        if size < MIB:
            raise UsageError(f"--capacity {capacity}: is less than a MiB", hint="a size with its unit, such as 16GB")
        return Target(f"--capacity {capacity}", [*told, "--capacity", str(size)])
    if config.device.capacity and config.device.kind != "cpu":
        return Target("device.capacity", [*told, "--capacity", str(parse_bytes(config.device.capacity))])
    return Target("", [option for option in told if option != "--gpu"])


def host_memory(budget_bytes: int = 0) -> tuple[int, str]:
    """What a training process may take of this machine's memory now, and the ceiling that will be hit first, in words.

    `budget_bytes` is the user's own ceiling for it; 0 = none.
    """
    from memdash.host.ceilings import binding, find_ceilings
    from memdash.host.process_tree import ProcessTree

    tree = ProcessTree(os.getpid(), reset_peaks=False)
    tree.refresh()
    reading = tree.read()
    tree.close()
    first = binding(find_ceilings(), reading)
    free_bytes = max(1, first.limit_bytes - first.fill(reading).used_bytes)
    if 0 < budget_bytes < free_bytes:
        return budget_bytes, "memory.host_budget"
    return free_bytes, f"free of {first.source}"


def ask(config: RunConfig, base: Path, options: Sequence[str], timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """What the planning process says of a config whose paths start at `base`. Raises MemdashError, UsageError."""
    if config.run.command:
        raise MemdashError(ONLY_OURS)
    return _child("runner.planning", config, base, options, timeout_s, "the plan was not made")


def probe(plan: dict[str, Any], config: RunConfig, base: Path, *, elsewhere: bool) -> dict[str, Any]:
    """What two real steps say, or why there were none. `elsewhere` = the plan is for a device that is not here."""
    if elsewhere:
        return {
            "why_not": "the plan is for a GPU that is not here, and a step on this machine would say nothing of its pace"
        }
    if plan["room"]["holder"] == "cuda":
        row = next((row for row in reversed(plan["rows"]) if _is_smaller(row, plan) and row["verdict"] == "fits"), None)
        capacity_bytes = plan["room"]["capacity_bytes"]
    else:
        free_bytes = plan["rows"][0]["host"]["free_bytes"]
        capacity_bytes = round(SAFE * free_bytes)
        small = (row for row in reversed(plan["rows"]) if _is_smaller(row, plan))
        row = next((row for row in small if row["host"]["total_bytes"] <= capacity_bytes), None)
    if row is None:
        return {"why_not": f"even micro-batch 1 may need more than is free here, {format_bytes(capacity_bytes)}"}
    options = ["--micro-batch", str(row["micro_batch"]), "--capacity", str(capacity_bytes)]
    try:
        found = _child("runner.planning.probe", config, base, options, PROBE_S, "two steps were not done")
    except MemdashError as error:
        return {"why_not": str(error)}
    run_s = found["step_s"] * row["cells"] / row["first_steps"]["cells"]
    wall_s = parse_duration(plan["wall"]) if plan["wall"] else None
    return {**found, "run_s": run_s, "in_time": wall_s is None or run_s <= wall_s}


def _is_smaller(row: dict[str, Any], plan: dict[str, Any]) -> bool:
    return bool(row["micro_batch"] <= plan["configured"])


def _child(
    module: str, config: RunConfig, base: Path, options: Sequence[str], timeout_s: float, too_late: str
) -> dict[str, Any]:
    """Run a module of the planning on a config; its answer. Raises MemdashError, UsageError, NotPlanned."""
    from memdash.commands._going_on import as_json

    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEMDASH_")}
    with tempfile.TemporaryDirectory(prefix="memdash-plan-") as folder:
        Path(folder, "config.json").write_bytes(as_json(config))
        command = [sys.executable, "-P", "-m", module, "--run-dir", folder, "--base-dir", str(base), *options]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout_s, env=environment, check=False
            )
        except subprocess.TimeoutExpired:
            raise MemdashError(f"{too_late} within {timeout_s:.0f} s") from None
    if done.returncode == 0:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer
    lines = done.stderr.strip().splitlines() or [f"it ended with exit code {done.returncode}"]
    if lines[-1].startswith("memdash: "):
        kind = UsageError if done.returncode == ExitCode.USAGE else MemdashError
        raise kind(lines[-1].removeprefix("memdash: "))
    raise NotPlanned(f"the task cannot be planned: {lines[-1]}", done.stderr)


def configured(plan: dict[str, Any]) -> dict[str, Any]:
    """The row of the config's own micro-batch."""
    (row,) = (row for row in plan["rows"] if row["micro_batch"] == plan["configured"])
    found: dict[str, Any] = row
    return found


def headline(plan: dict[str, Any]) -> str:
    """The verdict in one line."""
    row, room = configured(plan), plan["room"]
    need, over = format_bytes(row["worst_bytes"]), row["first_over"]
    if row["verdict"] == "unknown":
        return f"plan: micro-batch {plan['configured']} needs about {need} at its worst step"
    room_text = f"{format_bytes(room['capacity_bytes'])} ({room['source']})"
    if over is None:
        word = "fits, but is tight" if row["verdict"] == "tight" else "fits"
        return f"plan: micro-batch {plan['configured']} {word}: about {need} of {room_text}"
    largest = plan["largest"]
    remedy = f"micro-batch {largest} fits" if largest else "no micro-batch fits as it is"
    where = f"step {over['step']:,} (example {over['example']:,} of length {over['length']:,})"
    return f"plan: WILL OOM at {where}: needs about {need} of {room_text}; {remedy}"


def as_message(plan: dict[str, Any], advice: Sequence[str]) -> wire.RunPlan:
    """The part of a plan that a dashboard shows."""
    host = configured(plan)["host"]
    return wire.RunPlan(
        made_s=time.time(),
        headline=headline(plan),
        micro_batch=plan["configured"],
        capacity_bytes=plan["room"]["capacity_bytes"],
        source=plan["room"]["source"],
        splits=[_split(row) for row in plan["rows"]],
        on_host=plan["room"]["holder"] in ("malloc", "returned"),
        host_bytes=host["total_bytes"] if host else None,
        advice=list(advice),
    )


def _split(row: dict[str, Any]) -> wire.PlannedSplit:
    over = row["first_over"] or {}
    return wire.PlannedSplit(
        micro_batch=row["micro_batch"],
        worst_bytes=row["worst_bytes"],
        usual_bytes=row["peak_bytes"]["median"],
        verdict=row["verdict"],
        **{name: over[name] for name in ("step", "example", "length") if over},
    )

"""What each change of the config buys: every one is traced for itself, and left out where the model or the task cannot do it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from memdash.config import RunConfig
from memdash.errors import MemdashError
from runner.planning.configuration import Configuration

Trace = Callable[[RunConfig], Configuration]
"""Raises MemdashError where a config cannot be traced, and whatever a model raises that cannot do it."""


@dataclass(frozen=True)
class Change:
    """Keys of the config, set otherwise."""

    name: str
    keys: dict[str, Any]
    recomputes: bool = False
    """Whether activations are computed twice for it."""
    trains_alike: bool = True
    """Whether what is trained is the same, but for rounding and dropout masks."""


def changes(config: RunConfig, half: str) -> Iterator[Change]:
    """Those that the config does not have yet; `half` is the half precision that suits the target."""
    train = config.train
    half_keys = {"train.precision": half}
    checkpointing = {"train.gradient_checkpointing": True}
    if train.precision == "fp32":
        yield Change(half, half_keys)
    if not train.gradient_checkpointing:
        yield Change("checkpointing", checkpointing, recomputes=True)
        if train.precision == "fp32":
            yield Change(f"{half} + checkpointing", {**half_keys, **checkpointing}, recomputes=True)
    else:
        yield Change("no checkpointing", {"train.gradient_checkpointing": False})
    if config.model.freeze == "none":
        yield Change("frozen encoder", {"model.freeze": "encoder"}, trains_alike=False)
    for optimizer in ("adafactor", "sgd"):
        if train.optimizer == "adamw":
            keys = {"train.optimizer": optimizer, "train.optimizer_impl": "auto"}
            yield Change(optimizer, keys, recomputes=train.gradient_checkpointing, trains_alike=False)


def with_keys(config: RunConfig, keys: dict[str, Any]) -> RunConfig:
    """The config with `section.key` set."""
    for key, value in keys.items():
        section, _, field = key.partition(".")
        config = replace(config, **{section: replace(getattr(config, section), **{field: value})})
    return config


def variants(base: Configuration, half: str, trace: Trace) -> list[dict[str, Any]]:
    """A row for each change, beside the config as it is; `share` is that of the config's own worst step, less 1."""
    micro_batch = base.config.micro_batch
    rows = []
    for change in changes(base.config, half):
        began_s = time.process_time()
        try:
            other = trace(with_keys(base.config, change.keys))
            worst_bytes = other.worst_bytes(micro_batch)
        except (MemdashError, RuntimeError, TypeError, ValueError, NotImplementedError):
            continue  # this model, or this torch, does not do it
        rows.append(
            {
                "name": change.name,
                "keys": change.keys,
                "recomputes": change.recomputes,
                "trains_alike": change.trains_alike,
                "worst_bytes": worst_bytes,
                "share": worst_bytes / base.worst_bytes(micro_batch) - 1,
                "verdict": other.verdict(micro_batch),
                "largest": other.largest,
                "smallest_bytes": other.worst_bytes(other.micro_batches[0]),
                "cpu_s": round(time.process_time() - began_s, 3),
            }
        )
    return rows


def choices(base: Configuration, isolated: Configuration | None, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest and the smallest way that fits and trains the same; None where none does.

    Fastest = nothing computed twice, if that fits, then the fewest slices a step, then the fewest changes: an estimate.
    """
    ways: list[tuple[dict[str, Any], bool, int | None, int]] = [
        ({}, base.config.train.gradient_checkpointing, base.largest, base.worst_bytes(base.micro_batches[0]))
    ]
    if isolated is not None:
        keys = {"data.outlier_length": isolated.slicing.alone_above, "data.outliers": "isolate"}
        ways.append(
            (
                keys,
                base.config.train.gradient_checkpointing,
                isolated.largest,
                isolated.worst_bytes(isolated.micro_batches[0]),
            )
        )
    ways += [(r["keys"], r["recomputes"], r["largest"], r["smallest_bytes"]) for r in rows if r["trains_alike"]]
    fitting = [way for way in ways if way[2] is not None]
    if not fitting:
        return {"fastest": None, "smallest": None}
    fastest = min(fitting, key=lambda way: (way[1], -(way[2] or 0), len(way[0])))
    smallest = min(fitting, key=lambda way: (way[3], len(way[0])))
    return {
        "fastest": {"keys": fastest[0], "micro_batch": fastest[2], "recomputes": fastest[1]},
        "smallest": {"keys": smallest[0], "micro_batch": base.micro_batches[0], "bytes": smallest[3]},
    }

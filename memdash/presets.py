"""Configs for machines that many people share the limits of: what differs from the starter config, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A named set of keys."""

    about: str
    """The machine it is for."""
    keys: dict[str, Any]


_NOTEBOOK = {
    "train.micro_batch": 8,
    "train.eval_every": 200,
    "train.patience": 5,
    "data.padding": "bucket",
    "checkpoint.every_minutes": 30.0,
    "checkpoint.light_precision": "fp16",
    "on_failure.restart": 3,
    "guard.mode": "protect",
}

PRESETS = {
    "kaggle-t4": Preset(
        "a Kaggle session with a T4: 15 GB of device memory, 13 GB of RAM, 20 GB of disk, 9 hours",
        {
            **_NOTEBOOK,
            "train.precision": "fp16",
            "memory.host_budget": "12GB",
            "budget.wall": "8h45m",
            "budget.disk": "18GB",
        },
    ),
    "kaggle-p100": Preset(
        "a Kaggle session with a P100: 16 GB of device memory and no tensor cores, 13 GB of RAM, 20 GB of disk, 9 hours",
        {
            **_NOTEBOOK,
            "train.micro_batch": 4,
            "train.gradient_checkpointing": True,
            "memory.host_budget": "12GB",
            "budget.wall": "8h45m",
            "budget.disk": "18GB",
        },
    ),
    "colab-free": Preset(
        "a free Colab session, usually with a T4: 15 GB of device memory, 12 GB of RAM, and an end that may come at any time",
        {**_NOTEBOOK, "train.precision": "fp16", "checkpoint.every_minutes": 10.0, "memory.host_budget": "11GB"},
    ),
    "laptop-10gb": Preset(
        "a laptop that has 10 GB of memory for a training, on its processor or on a small GPU",
        {
            "train.micro_batch": 2,
            "train.gradient_checkpointing": True,
            "train.optimizer": "adafactor",
            "train.learning_rate": 1e-2,
            "data.padding": "bucket",
            "memory.host_budget": "10GB",
            "checkpoint.keep_last": 1,
            "checkpoint.every_minutes": 15.0,
            "guard.mode": "protect",
        },
    ),
}

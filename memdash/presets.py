"""What a starter config is changed by: the machine, how much of the work is done, how much memory is saved; and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


@dataclass(frozen=True)
class Option:
    """A tier or a level: a named set of keys, to go with any preset."""

    about: str
    keys: dict[str, tuple[Any, str]]
    """The value of each, and why."""


def _bert(layers: int, hidden: int) -> str:
    sizes = f"num_hidden_layers = {layers}, hidden_size = {hidden}, num_attention_heads = {hidden // 32}"
    return f"{{ {sizes}, intermediate_size = {4 * hidden} }}"


TIERS = {
    "lite": Option(
        "minutes: does it learn at all?",
        {
            "data.subset_ratio": (0.1, "a tenth of the examples shows whether the loss falls"),
            "data.max_length": (32, "half the tokens an example, and less than half the activations"),
            "model.config": (_bert(1, 64), "one narrow layer takes a quarter of the time"),
            "train.epochs": (1.0, "once over the data"),
        },
    ),
    "medium": Option(
        "an hour or so: which settings are worth a full run?",
        {
            "data.subset_ratio": (0.5, "half of the examples"),
            "data.max_length": (64, "most sentences are shorter"),
            "model.config": (_bert(4, 256), "BERT-mini: large enough that settings matter as they do in a full run"),
            "train.epochs": (2.0, "the second time over the data shows overfitting"),
        },
    ),
    "full": Option(
        "the result: all examples, long texts, a model of the size of MiniLM",
        {
            "data.subset_ratio": (1.0, "all examples"),
            "data.max_length": (128, "whole sentences, and short paragraphs"),
            "model.config": (_bert(6, 384), "as large as MiniLM"),
            "train.epochs": (3.0, "more seldom helps a model that is fine-tuned"),
        },
    ),
}

LEVELS = {
    "default": Option("nothing is given up to save memory", {}),
    "optimized": Option(
        "less memory for the same training, at about a third more time",
        {
            "train.micro_batch": (4, "activations of four examples at once; the global batch stays"),
            "train.gradient_checkpointing": (True, "activations inside the layers are computed again: the same bits"),
            "data.padding": ("bucket", "like lengths in one step, so that less is padding"),
        },
    ),
    "ultra-low": Option(
        "the least that this can be trained in: slower, and with another optimizer",
        {
            "train.micro_batch": (1, "activations of one example at once; the global batch stays"),
            "train.gradient_checkpointing": (True, "activations inside the layers are computed again: the same bits"),
            "data.padding": ("bucket", "like lengths in one step, so that less is padding"),
            "train.optimizer": ("adafactor", "next to no state, where AdamW keeps 8 bytes a parameter"),
            "train.learning_rate": (1e-2, "adafactor scales it by the size of each weight"),
            "checkpoint.keep_last": (1, "one full checkpoint on the disk"),
        },
    ),
}


def compose(preset: str = "", tier: str = "", level: str = "") -> dict[str, Any]:
    """The keys of all three; the empty name is none of its kind. A level never makes a micro-batch larger."""
    values = dict(PRESETS[preset].keys) if preset else {}
    for option in (TIERS[tier] if tier else None, LEVELS[level] if level else None):
        for key, (value, _why) in option.keys.items() if option else ():
            smaller = key == "train.micro_batch" and values.get(key)
            values[key] = min(value, values[key]) if smaller else value
    return values


def explain(values: Mapping[str, Any], tier: str = "", level: str = "") -> Iterator[str]:
    """What a tier and a level change, and why; `values` are the composed ones."""
    for kind, name, options in (("tier", tier, TIERS), ("level", level, LEVELS)):
        if name:
            yield f"{kind} {name}: {options[name].about}"
            for key, (value, why) in options[name].keys.items():
                why = why if values[key] == value else f"set lower by the preset than this {kind}'s {value}"
                yield f"    {key} = {values[key]}    {why}"

"""The memory strategies as ratios of one config against another, beside the ratios that people have reported of them.

Each side is a whole run of the product's own runner on its simulated device; peaks are those of the steps.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks._table import Row, main, row

if TYPE_CHECKING:
    from runner.loop import Loop

STEPS = 2
LENGTH = 128
SMALL = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}

BATCH_16 = {"train.global_batch": 16, "checkpoint.at_end": "full"}
BATCH_8_X_2 = {
    "train.global_batch": 16,
    "train.micro_batch": 8,
    "train.precision": "bf16",
    "checkpoint.at_end": "light",
    "checkpoint.light_precision": "bf16",
}
BATCH_8 = {"train.global_batch": 8}


@dataclass(frozen=True)
class Side:
    """What a run took, in bytes."""

    peak: int
    state: int
    checkpoint: int


def measure(model: dict[str, Any], keys: dict[str, Any]) -> Side:
    """Train a few steps on texts of full length."""
    from memdash.agent.session import Session
    from memdash.config_file import parse_config
    from runner.launch import prepare
    from runner.simulated import SimulatedDevice
    from runner.spec import Spec

    class Watching(Session):
        peak = 0

        def end_step(self, **report: Any) -> bool:
            assert self.read_memory is not None
            self.peak = max(self.peak, self.read_memory().peak_allocated_bytes or 0)
            return super().end_step(**report)

    table: dict[str, dict[str, Any]] = {
        "model": {"config": model},
        "data": {"max_length": LENGTH, "max_examples": 40, "validation_fraction": 0.0},
        "train": {"max_steps": STEPS, "threads": 1},
        "device": {"kind": "simulated", "capacity": "64GiB"},
        "checkpoint": {"at_end": "none"},
    }
    for key, value in keys.items():
        section, _, name = key.partition(".")
        table[section][name] = value
    with tempfile.TemporaryDirectory() as folder:
        session, place = Watching(), Path(folder)
        gc.collect()
        loop: Loop = prepare(Spec(parse_config(table), place, place), session)
        device = loop._state.device
        assert isinstance(device, SimulatedDevice)
        try:
            start = device.read_memory().allocated_bytes or 0
            loop.run()
        finally:
            device.stop()
        saved = sum(file.stat().st_size for file in place.rglob("*.safetensors"))
        return Side(session.peak, start, saved)


def measure_all(quick: bool) -> list[Row]:
    """Every pair, on a small BERT when quick and on one of MiniLM's size otherwise."""
    model = SMALL if quick else MINILM
    half = {**model, "num_hidden_layers": model["num_hidden_layers"] // 2}  # as DistilBERT is of BERT
    wide, narrow = measure(model, BATCH_16), measure(model, BATCH_8_X_2)
    plain = measure(model, BATCH_8)
    checkpointed = measure(model, {**BATCH_8, "train.gradient_checkpointing": True})
    frozen = measure(half, {**BATCH_8, "model.freeze": "encoder"})
    adafactor = measure(model, {**BATCH_8, "train.optimizer": "adafactor"})
    foreach = measure(model, {**BATCH_8, "train.gradient_checkpointing": True, "train.optimizer_impl": "foreach"})
    return [
        row("peak: 8 x 2 mixed precision, bytes", narrow.peak, wide.peak, "16 x 1 fp32", "ratio", "<=", 0.7),
        row("checkpoint: light bf16, bytes", narrow.checkpoint, wide.checkpoint, "full fp32", "ratio", "<=", 0.25),
        row("peak: gradient checkpointing, bytes", checkpointed.peak, plain.peak, "none", "ratio", "<=", 0.8),
        row("peak: half as deep, frozen, bytes", frozen.peak, plain.peak, "whole, full", "ratio", "<=", 0.5),
        row("weights and state: adafactor, bytes", adafactor.state, plain.state, "adamw", "ratio", "<=", 0.4),
        row("peak: fused adamw, bytes", checkpointed.peak, foreach.peak, "foreach adamw", "ratio", "<=", 1.0),
    ]


if __name__ == "__main__":
    sys.exit(main("strategies", __doc__ or "", measure_all))

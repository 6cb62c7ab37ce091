"""The memory strategies as ratios of one config against another, beside the ratios that field reports give for them.

Each side is a whole short run of the product's own runner. Peaks are those of a step on the simulated device; host memory is
that of a process of its own, above what its libraries take. `reported` is what people have measured with their own scripts on
a T4, on a P100 or on the CPU.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks._strategy_run import Keys, measure, measure_apart, write_texts
from benchmarks._table import Row, main, not_measured, row
from memdash.errors import UsageError

SIZES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64},
    "small": {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256},
    "half as deep": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256},
    "BERT-mini": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024},
    "MiniLM": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "BERT-base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "DistilBERT": {"hidden_size": 768, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 3072},
}
LIGHT = {"checkpoint.at_end": "light", "checkpoint.light_precision": "bf16"}
CHECKPOINTED = {"train.gradient_checkpointing": True}


def measure_all(quick: bool) -> list[Row]:
    """Every pair, on small models when quick."""
    size: Keys = {"model.config": SIZES["small" if quick else "MiniLM"], "data.max_length": 64 if quick else 128}
    return [
        *_splits(size),
        *_models(quick),
        *_activations(size),
        *_optimizers(quick),
        *_outlier(quick),
        *_signals(quick),
        *_malloc(quick),
    ]


def _splits(size: Keys) -> Iterator[Row]:
    """Batch 16 in fp32 with full checkpoints, and the same step in smaller slices and mixed precision with light ones."""
    base: Keys = {**size, "train.global_batch": 16}
    half = {"train.precision": "bf16", **LIGHT}
    wide = measure({**base, "checkpoint.at_end": "full"})
    eight = measure({**base, **half, "train.micro_batch": 8})
    four = measure({**base, **half, "train.micro_batch": 4})
    plain = measure({**base, "train.micro_batch": 8})
    against = "16 x 1 fp32"
    yield row("peak: 8 x 2 mixed, bytes", eight.peak, wide.peak, f"{against}; reported 0.50", "ratio", "<=", 0.7)
    yield row("peak: 4 x 4 mixed, bytes", four.peak, wide.peak, f"{against}; reported 0.29", "ratio", "<=", 0.5)
    light, full = eight.checkpoint, wide.checkpoint
    yield row("checkpoint: light bf16, bytes", light, full, "full fp32; reported 0.25", "ratio", "<=", 0.25)
    for name, side, bound in (("8 x 2 fp32", plain, 0.8), ("8 x 2 mixed", eight, 1.0), ("4 x 4 mixed", four, 1.0)):
        reported = {"8 x 2 mixed": "; reported 1.5", "4 x 4 mixed": "; reported 1.25"}.get(name, "")
        ours, peer = 1 / side.step_cpu_s, 1 / wide.step_cpu_s
        yield row(f"steps per CPU-second: {name}", ours, peer, against + reported, "ratio", ">=", bound)


def _models(quick: bool) -> Iterator[Row]:
    """A whole model, and one half as deep whose encoder is not trained."""
    large, small = ("small", "half as deep") if quick else ("BERT-base", "DistilBERT")
    keys: Keys = {"train.global_batch": 4, "train.max_steps": 2}
    whole = measure({"model.config": SIZES[large], **keys})
    frozen = measure({"model.config": SIZES[small], **keys, "model.freeze": "encoder"})
    yield row(
        f"peak: {small}, frozen, bytes", frozen.peak, whole.peak, f"{large}, full; reported 0.5", "ratio", "<=", 0.5
    )


def _activations(size: Keys) -> Iterator[Row]:
    keys: Keys = {**size, "train.global_batch": 8}
    plain, again = measure(keys), measure({**keys, **CHECKPOINTED})
    yield row("peak: gradient checkpointing, bytes", again.peak, plain.peak, "none; reported 0.70", "ratio", "<=", 0.8)
    yield row(
        "CPU of a step: gradient checkpointing, s", again.step_cpu_s, plain.step_cpu_s, "none", "ratio", "<=", 1.5
    )


def _optimizers(quick: bool) -> Iterator[Row]:
    """Where parameters outweigh activations: those are checkpointed, and texts short."""
    keys: Keys = {
        "model.config": SIZES["BERT-mini" if quick else "BERT-base"],
        "data.max_length": 64,
        "train.global_batch": 4,
        "train.max_grad_norm": 0.0,
        "train.max_steps": 2 if quick else 3,
        **CHECKPOINTED,
    }
    adamw, inside = measure(keys), measure({**keys, "train.optimizer_in_backward": True})
    foreach = measure({**keys, "train.optimizer_impl": "foreach"})
    adafactor = measure({**keys, "train.optimizer": "adafactor"})
    yield row("peak: fused adamw, bytes", adamw.peak, foreach.peak, "foreach adamw", "ratio", "<=", 1.0)
    figure, against = "peak: optimizer in the backward, bytes", "after it; 0.83 known of BERT-base"
    yield row(figure, inside.peak, adamw.peak, against, "ratio", "<=", 0.9)
    yield row(
        "CPU of a step: optimizer in the backward, s",
        inside.step_cpu_s,
        adamw.step_cpu_s,
        "after it",
        "ratio",
        "<=",
        1.1,
    )
    figure = "weights and state: {}, bytes"
    yield row(figure.format("adafactor"), adafactor.state, adamw.state, "adamw", "ratio", "<=", 0.4)
    with _or_why(figure.format("adamw8bit"), "adamw", "ratio <= 0.55") as rows:
        eight_bit = measure({**keys, "train.optimizer": "adamw8bit"})
        rows.append(row(figure.format("adamw8bit"), eight_bit.state, adamw.state, "adamw", "ratio", "<=", 0.55))
    yield from rows


def _outlier(quick: bool) -> Iterator[Row]:
    """One review in 2,284 with 26 items where the next has 8: the group that holds it, and a usual one."""
    keys: Keys = {
        "task.name": "aspects",
        "data.source": "aspects",
        "data.max_length": 112,  # the longest review has 106 tokens
        "data.vocab_size": 2000,
        "model.config": SIZES["tiny" if quick else "half as deep"],
        "train.global_batch": 8,
    }
    figure = "worst peak above the weights: items {}, bytes"
    ways: dict[str, Keys] = {
        "padded per batch": {"data.padding": "batch"},
        "filtered at 5": {"data.padding": "global", "data.outlier_length": 5, "data.outliers": "drop"},
        "truncated at 8": {"data.padding": "batch", "data.outlier_length": 8, "data.outliers": "truncate"},
        "laid out flat": {"data.padding": "flat"},
        "one at a time": {"data.padding": "sequential"},
    }
    bounds = {
        "padded per batch": 1.0,
        "filtered at 5": 0.25,
        "truncated at 8": 0.4,
        "laid out flat": 0.3,
        "one at a time": 0.05,
    }
    reported = {"filtered at 5": "; reported 0.19"}
    with _or_why(figure.format("laid out flat"), "padded globally", "ratio <= 0.3") as rows:
        worst = measure({**keys, "data.padding": "global"}, worst_only=True)
        for name, way in ways.items():
            side = measure({**keys, **way}, worst_only=True)
            taken, of = side.peak - side.state, worst.peak - worst.state
            against = f"padded globally{reported.get(name, '')}"
            rows.append(row(figure.format(name), taken, of, against, "ratio", "<=", bounds[name]))
            if name == "padded per batch":
                usual = "CPU of a usual step: items padded per batch, s"
                rows.append(row(usual, side.step_cpu_s, worst.step_cpu_s, "padded globally", "ratio", "<=", 0.3))
    yield from rows


def _signals(quick: bool) -> Iterator[Row]:
    """105 channels of 5,500 timesteps: read whole into memory, mapped, and mapped and down-sampled."""
    examples = 200 if quick else 600
    figure = "host memory: signals {}, bytes"
    with _or_why(figure.format("mapped"), "loaded", "ratio <= 0.6") as rows, tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _write_signals(folder, examples)
        keys: Keys = {
            "task.name": "signal-to-text",
            "data.source": "signals.npy",
            "data.targets": "texts.txt",
            "train.global_batch": 4,
            "train.max_steps": 1 if quick else 2,
        }
        loaded = measure_apart({**keys, "data.memory_map": False}, folder)
        mapped = measure_apart(keys, folder)
        smaller = measure_apart({**keys, "data.downsample": 2}, folder)
        for name, side, bound in (("mapped", mapped, 0.6), ("mapped, down-sampled x2", smaller, 0.4)):
            against = f"{examples} examples loaded; reported 0.3" if side is smaller else f"{examples} examples loaded"
            rows.append(row(figure.format(name), side.host_peak, loaded.host_peak, against, "ratio", "<=", bound))
    yield from rows


def _write_signals(folder: Path, examples: int) -> None:
    """A file of the true shape that takes no disk: what is loaded from it is memory all the same."""
    import numpy as np

    np.lib.format.open_memmap(folder / "signals.npy", mode="w+", dtype=np.float32, shape=(examples, 105, 5500))
    (folder / "texts.txt").write_text("a cat sees the river\n" * examples)


def _malloc(quick: bool) -> Iterator[Row]:
    """The same run on the CPU, with glibc as it is and with freed tensors given back at once."""
    keys: Keys = {"model.config": SIZES["BERT-mini"], "train.global_batch": 8, "train.max_steps": 5 if quick else 16}
    with tempfile.TemporaryDirectory() as made:
        write_texts(Path(made))
        usual, giving = (measure_apart({**keys, "memory.malloc": how}, Path(made)) for how in ("default", "return"))
    figure = 'host memory: memory.malloc = "return", bytes'
    yield row(figure, giving.host_peak, usual.host_peak, "default; traced tensors 0.74", "ratio", "<=", 0.85)
    figure = 'CPU of a step: memory.malloc = "return", s'
    yield row(figure, giving.step_cpu_s, usual.step_cpu_s, "default", "ratio", "<=", 1.6)


@contextlib.contextmanager
def _or_why(figure: str, peer: str, aim: str) -> Iterator[list[Row]]:
    """Rows to fill; one that says why where this machine lacks something that they need."""
    rows: list[Row] = []
    try:
        yield rows
    except UsageError as error:
        rows[:] = [Row(figure, not_measured(str(error)), "", peer, None, aim, None)]


if __name__ == "__main__":
    sys.exit(main("strategies", __doc__ or "", measure_all))

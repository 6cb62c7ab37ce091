"""The figures of a run in words, with the colour each deserves (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from memdash import wire
from memdash.batching import BatchSplit
from memdash.errors import PlanError
from memdash.tui.board import Board
from memdash.tui.danger import Danger, headroom_fraction
from memdash.tui.palette import DANGER, DIM, GOOD, TEXT, WARNING
from memdash.tui.series import smoothed_last
from memdash.units import format_bytes, format_clock, format_count, format_duration, format_percent

_CHECKPOINT_NAME = re.compile(r"step-(\d+)-(light|full)(?:-\d+)?")
VALIDATION_LOSSES = ("loss", "eval_loss")
"""What it is called in RunState.metrics: by us, and by transformers."""
DANGER_COLOURS = {Danger.NONE: TEXT, Danger.LOW: WARNING, Danger.CRITICAL: DANGER}


@dataclass(frozen=True)
class Figure:
    """One label and its value."""

    label: str
    value: str
    colour: str = TEXT
    note: str = ""
    """Said after the value where there is room."""


def figures(board: Board) -> list[Figure]:
    """All of them, the most important first."""
    state = board.state
    if state is None:
        return []
    return [
        _headroom(board, "device"),
        _headroom(board, "host"),
        Figure("split", split_text(state)),
        _loss(state),
        _rate(state),
        Figure("lr", f"{state.learning_rate:.2e}" if state.learning_rate is not None else "n/a"),
        _checkpoint(board),
        _troubles(state),
    ]


def split_text(state: wire.RunState) -> str:
    """`8 x 2 = 16`; `n/a` until the script has said."""
    try:
        return str(BatchSplit(state.global_batch, state.micro_batch, state.world_size))
    except PlanError:
        return "n/a"


def simulated(memory: wire.DeviceMemory | None) -> bool:
    """Whether a device's figures are made up by arithmetic rather than read from hardware."""
    return memory is not None and memory.kind == "simulated"


def gpu_text(gpu: wire.GpuReading) -> str:
    """`83% 61°C 312 W`, without what the driver does not say; `GPU n/a` when it says nothing."""
    if gpu.kind == "unavailable":
        return "GPU n/a"
    figures = ((gpu.utilization_percent, "%"), (gpu.temperature_c, "°C"), (gpu.power_w, " W"))
    return " ".join(f"{value:.0f}{unit}" for value, unit in figures if value is not None)


def others_text(gpu: wire.GpuReading) -> str:
    """What processes of others hold on it; empty when there are none."""
    return f"others {format_bytes(gpu.others_bytes)}" if gpu.others_bytes else ""


def elapsed_text(board: Board, clock_s: float) -> str:
    """Time since the run was created, up to its end; in later attempts what this one took, and all of them together."""
    state, now_s = board.state, board.now_s(clock_s)
    if state is None:
        return format_duration(0.0)
    if state.attempt:
        return format_clock(wire.attempt_s(state, now_s), state.past_s)
    return format_duration(max(0.0, now_s - state.created_s))


def progress(state: wire.RunState) -> float:
    """Steps done as a part of all steps."""
    return min(1.0, state.step / state.total_steps) if state.total_steps else 0.0


def epoch_text(state: wire.RunState) -> str:
    """`epoch 1.4`: how many times the examples have been seen."""
    return f"epoch {state.step / state.steps_per_epoch:.2f}" if state.steps_per_epoch else f"epoch {state.epoch}"


def ending(board: Board) -> list[str]:
    """What became of the run, the most important first."""
    state = board.state
    assert state is not None
    outcome = {
        "finished": "✓ finished",
        "stopped": "■ stopped",
        "failed": "✗ failed",
        "oom": "✗ out of memory",
        "killed": "✗ killed",
        "lost": "✗ lost: nobody saw how it ended",
    }.get(state.status, state.status)
    code = state.exit_code
    return [
        f"{outcome}: {state.status_reason}" if state.status_reason else outcome,
        *([f"signal {-code}" if code < 0 else f"exit code {code}"] if code else []),
        *([f"step {state.step:,} of {state.total_steps:,}"] if state.total_steps else []),
        *([elapsed_text(board, state.ended_s)] if state.ended_s is not None else []),
        *_losses(board),
    ]


def _losses(board: Board) -> list[str]:
    """From the first to the smoothed last one: the last batch alone may be far off."""
    state = board.state
    assert state is not None
    last = state.smoothed_loss
    if last is None:
        last = smoothed_last(board.series["loss"])
    said = [f"loss {state.first_loss:.3f} -> {last:.3f}"] if last is not None and state.first_loss is not None else []
    validation = next((state.metrics[name] for name in VALIDATION_LOSSES if name in state.metrics), None)
    return said if validation is None else [*said, f"validation loss {validation:.3f}"]


def _headroom(board: Board, where: str) -> Figure:
    headroom_bytes, capacity_bytes = board.headroom(where)
    note = "simulated" if where == "device" and simulated(board.device()) else ""
    if where == "device" and (gpu := board.gpu()):
        note = others_text(gpu)
    if headroom_bytes is None:
        return Figure(f"{where} headroom", "n/a", DIM, note)
    percent = format_percent(headroom_fraction(headroom_bytes, capacity_bytes))
    value = f"{percent} {format_bytes(headroom_bytes)}"  # where it must be cut, the part that matters stays
    return Figure(f"{where} headroom", value, DANGER_COLOURS[board.dangers[where]], note)


def _loss(state: wire.RunState) -> Figure:
    if state.loss is None:
        return Figure("loss", "n/a", DIM)
    first = f"from {state.first_loss:.3f}" if state.first_loss is not None else ""
    return Figure("loss", f"{state.loss:.4f}", note=first)


def _rate(state: wire.RunState) -> Figure:
    rate, name = (state.items_per_s, state.item_name) if state.items_per_s else (state.examples_per_s, "examples")
    step_time = f"{format_duration(state.step_time_s)} a step" if state.step_time_s else ""
    return Figure(f"{name}/s", format_count(rate), note=step_time)


def _checkpoint(board: Board) -> Figure:
    state, saved = board.state, board.last_checkpoint
    assert state is not None
    if saved is not None:
        return Figure("checkpoint", f"{saved.kind} @ {saved.step:,}", note=format_bytes(saved.size_bytes))
    if state.last_checkpoint:
        name = state.last_checkpoint.rstrip("/").rpartition("/")[2]
        known = _CHECKPOINT_NAME.fullmatch(name)
        return Figure("checkpoint", f"{known[2]} @ {int(known[1]):,}" if known else name)
    return Figure("checkpoint", "none yet", DIM)


def _troubles(state: wire.RunState) -> Figure:
    notes = [
        f"{state.num_recoveries:,} recovered" if state.num_recoveries else "",
        f"{state.num_growths:,} grown back" if state.num_growths else "",
        f"{state.dropped_samples:,} samples dropped" if state.dropped_samples else "",
    ]
    colour = WARNING if state.num_ooms or state.dropped_samples else GOOD
    return Figure("OOMs", f"{state.num_ooms:,}", colour, note=" · ".join(filter(None, notes)) or "no samples dropped")

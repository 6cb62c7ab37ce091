"""What the checkpoints of a run come to, beside the disk budget."""

from __future__ import annotations

from typing import Any

from memdash.config import RunConfig
from memdash.units import parse_bytes
from runner.disk_budget import ROOM_FOR, expected_bytes, in_words, schedule_bytes
from runner.saving import PRECISIONS
from runner.training_state import TrainingState


def disk(config: RunConfig, state: TrainingState) -> dict[str, Any]:
    """By the arithmetic that the run itself goes by; the state may be one of fake tensors."""
    full_bytes = expected_bytes(state.need_bytes("full"), [])
    light_bytes = expected_bytes(state.need_bytes("light", PRECISIONS[config.checkpoint.light_precision]), [])
    most_bytes = schedule_bytes(config.checkpoint, full_bytes, light_bytes)
    budget_bytes = parse_bytes(config.budget.disk) if config.budget.disk else None
    verdict = "unknown"
    if budget_bytes is not None:
        is_refused = budget_bytes < ROOM_FOR * full_bytes
        verdict = "refused" if is_refused else "fits" if most_bytes <= budget_bytes else "makes way"
    return {
        "full_bytes": full_bytes,
        "light_bytes": light_bytes,
        "most_bytes": most_bytes,
        "budget_bytes": budget_bytes,
        "verdict": verdict,
        "text": in_words(config.checkpoint, full_bytes, most_bytes),
    }

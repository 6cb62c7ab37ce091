"""The stepper's steps as a script that TraceML runs, or without it: CPU-seconds of all threads of the training process.

`python -m benchmarks._rival RESULTS ROUNDS`, or the same by `traceml run benchmarks/_rival.py`. Its patches of torch stay
for good, so both go in processes of their own, at the same time.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # TraceML runs files, not modules

from benchmarks._stepper import SLICE_S, STEP_S, Sides, Work

import torch  # isort: skip


def measure(rounds: int, *, traced: bool) -> list[dict[str, Any]]:
    """What each slice cost."""
    torch.set_num_threads(1)
    work, watch = Work(), contextlib.nullcontext
    if traced:
        import traceml_ai

        watch = lambda: traceml_ai.trace_step(work.layer)  # noqa: E731
    slices = []
    for number in range(-1, rounds):
        for step_s in STEP_S:
            plain, count = work.step(step_s), max(1, round(SLICE_S[step_s] / step_s))

            def step(plain: Any = plain) -> None:
                with watch():
                    plain()

            cpu_s = Sides.off(step, count)
            if number >= 0:  # the first round warms up
                slices.append({"step_s": step_s, "steps": count, "cpu_s": cpu_s})
    return slices


if __name__ == "__main__":
    found = measure(int(os.environ["RIVAL_ROUNDS"]), traced="RIVAL_TRACED" in os.environ)
    Path(os.environ["RIVAL_RESULTS"]).write_text(json.dumps(found))

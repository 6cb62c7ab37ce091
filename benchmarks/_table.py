"""Rows of a benchmark: ours beside a peer or a limit of the same run, the ratio, the aim, met or not."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

# Read when torch is imported: idle threads that spin would be counted as CPU-seconds of whoever is measured.
os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

Value = float | int | str
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Row:
    """One figure. What could not be measured here says why in its value, and has no ratio and no verdict."""

    figure: str
    ours: Value
    peer: Value
    peer_name: str
    ratio: float | None
    aim: str
    met: bool | None


def row(
    figure: str, ours: Value, peer: Value, peer_name: str, of: Literal["ours", "ratio"], op: str, bound: float
) -> Row:
    """Judge `ours` itself, or its ratio to the peer, by `op` (one of <=, >=, ==) and `bound`."""
    ratio = None
    if not isinstance(ours, str) and not isinstance(peer, str) and peer:
        ratio = ours / peer
    judged = ratio if of == "ratio" else ours
    met = None
    if not isinstance(judged, str) and judged is not None and math.isfinite(judged):
        met = {"<=": judged <= bound, ">=": judged >= bound, "==": judged == bound}[op]
    return Row(figure, ours, peer, peer_name, ratio, f"{of} {op} {bound:g}", met)


def not_measured(why: str) -> str:
    """The value of what could not be measured here."""
    return f"{NOT_MEASURED}: {why}"


def main(name: str, about: str, measure: Callable[[bool], list[Row]]) -> int:
    """Measure and print. A missed aim is a row, not a failure."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--quick", action="store_true", help="smaller models, within a minute on 2 cores")
    parser.add_argument("--json", action="store_true", help='print {"rows": [...]}')
    arguments = parser.parse_args()
    with contextlib.redirect_stdout(sys.stderr):  # some peers print their own figures
        rows = measure(arguments.quick)
    if arguments.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}, indent=1))
    else:
        print(table(rows))
    return 0


def table(rows: list[Row]) -> str:
    """Aligned columns, numbers to the right."""
    head = ("figure", "ours", "peer", "peer name", "ratio", "aim", "met")
    lines = [head, *((r.figure, _text(r.ours), _text(r.peer), r.peer_name, *_verdict(r)) for r in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(_aligned(line, widths) for line in lines)


def _verdict(row: Row) -> tuple[str, str, str]:
    met = {True: "yes", False: "NO", None: "-"}[row.met]
    return ("-" if row.ratio is None else _text(row.ratio), row.aim, met)


def _aligned(line: tuple[str, ...], widths: list[int]) -> str:
    right = {1, 2, 4}
    padded = enumerate(zip(line, widths, strict=True))
    cells = [cell.rjust(width) if column in right else cell.ljust(width) for column, (cell, width) in padded]
    return "  ".join(cells).rstrip()


def _text(value: Value) -> str:
    if isinstance(value, str):
        return value
    if value == round(value) and abs(value) < 1e15:
        return f"{value:.0f}"
    return f"{value:.3g}"

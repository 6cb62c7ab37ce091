"""The colours of the dashboard: one meaning each, the same in plots, figures and journal."""

from __future__ import annotations

BACKGROUND = "#0f1419"
PANEL = "#1a2029"
RULE = "#39424e"
TEXT = "#e6edf3"
DIM = "#8b949e"
FAINT = "#59636e"

GOOD = "#4ade80"
INFO = "#60a5fa"
WARNING = "#f0883e"
DANGER = "#ff5f56"

WORKING_SET = "#2dd4bf"
PROCESS_TREE = "#7aa2f7"
ALLOCATED = "#4ade80"
RESERVED = "#7aa2f7"
PEAK = "#e879f9"
CAPACITY = DANGER
FORECAST = "#ffb454"
LOSS = "#f2cc60"
LOSS_RAW = "#6e6037"
THROUGHPUT = "#c4b5fd"

LEVEL_COLOURS = {"info": DIM, "good": GOOD, "warning": WARNING, "error": DANGER}
STATUS_COLOURS = {
    "starting": INFO,
    "running": GOOD,
    "pausing": LOSS,
    "paused": LOSS,
    "stopping": WARNING,
    "finished": GOOD,
    "stopped": LOSS,
    "failed": DANGER,
    "oom": DANGER,
    "killed": DANGER,
    "lost": DANGER,
}


def shaded(colour: str, part: float) -> str:
    """`colour` mixed into the background, such as for the area under a curve."""
    mixed = (
        round(int(colour[at : at + 2], 16) * part + int(BACKGROUND[at : at + 2], 16) * (1 - part)) for at in (1, 3, 5)
    )
    return "#" + "".join(f"{value:02x}" for value in mixed)

"""The plan page: what each micro-batch was estimated to need before the start, beside what is measured now."""

from __future__ import annotations

from memdash import wire
from memdash.tui.board import Board
from memdash.tui.palette import DANGER, DIM, FAINT, GOOD, TEXT, WARNING
from memdash.tui.screens.page import Page
from memdash.tui.widgets.line_pane import TextLine
from memdash.units import format_bytes, format_percent

FAR_ABOVE = 1.5  # no plan is so wrong of what one step needs; what is kept from step to step is not planned
COLOURS = {"fits": GOOD, "tight": WARNING, "oom": DANGER, "unknown": TEXT}


class PlanScreen(Page):
    """Any of escape, v and q leaves it."""

    NAME = "plan"
    BINDINGS = [("escape,v,q", "dismiss", "back")]

    def lines(self, board: Board) -> list[TextLine]:
        """The plan, and the newest peaks."""
        return plan_lines(board)


def plan_lines(board: Board) -> list[TextLine]:
    """Every micro-batch in a row, host memory under them, then what could be changed."""
    plan = board.plan
    if plan is None:
        text = "no plan was made before the start of this run: `memdash plan CONFIG` makes one"
        return [TextLine(text, DIM, (("", DIM),))]
    (own,) = (split for split in plan.splits if split.micro_batch == plan.micro_batch)
    capacity = f" of {format_bytes(plan.capacity_bytes)}, {plan.source}" if plan.capacity_bytes else ""
    lines = [
        TextLine(plan.headline, COLOURS[own.verdict], (("", TEXT),)),
        TextLine(""),
        TextLine(f"estimates{capacity}", DIM, (("", DIM),)),
        TextLine(f"{'micro-batch':>11}{'usual':>11}{'worst':>11}{'measured':>11}", DIM),
    ]
    lines += [_line(split, plan, board) for split in plan.splits]
    if plan.host_bytes is not None:
        now = format_bytes(board.host.process_bytes) if board.host else "n/a"
        host = f"{'host':>11}{'':>11}{format_bytes(plan.host_bytes):>11}{now:>11}"
        lines.append(TextLine("the training process; measured: now", FAINT, ((f"{host}  ", TEXT),)))
    lines.append(TextLine(""))
    lines += [TextLine(text, TEXT, (("", TEXT),)) for text in plan.advice]
    note = "measured: the highest peak of a step since this dashboard was opened; a long example may be yet to come"
    return [*lines, TextLine(note, FAINT, (("", FAINT),))]


def _line(split: wire.PlannedSplit, plan: wire.RunPlan, board: Board) -> TextLine:
    mark = "*" if split.micro_batch == plan.micro_batch else " "
    measured = None if plan.on_host else board.peaks.get(split.micro_batch)
    figures = f"{split.micro_batch:>10}{mark}{format_bytes(split.usual_bytes):>11}{format_bytes(split.worst_bytes):>11}"
    figures += f"{format_bytes(measured) if measured is not None else '':>11}  "
    word: str = "" if split.verdict == "unknown" else split.verdict
    if split.verdict == "oom":
        word = f"WILL OOM at step {split.step:,}"
    if measured is not None:
        share = measured / split.worst_bytes
        told = f"{format_percent(share)} of the worst so far"
        if share > FAR_ABOVE:
            told = "far above the plan: something else takes the memory, see `f` and `l`"
        word += f"{'; ' if word else ''}{told}"
    return TextLine(word, COLOURS[split.verdict], ((figures, TEXT),))

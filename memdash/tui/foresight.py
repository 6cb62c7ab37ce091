"""What a forecast looks like: its line over everything, its share of a plot, its page (pure)."""

from __future__ import annotations

from memdash import wire
from memdash.tui.palette import DANGER, DIM, FAINT, GOOD, INFO, TEXT, WARNING
from memdash.tui.plots import Ahead
from memdash.tui.widgets.line_pane import TextLine
from memdash.units import format_duration

RISK_COLOURS: dict[wire.Risk, str] = {"ok": GOOD, "watch": INFO, "warning": WARNING, "critical": DANGER}


def alarm(state: wire.RunState | None) -> tuple[str, str]:
    """The headline that must not be missed and its colour; nothing while there is only something to watch."""
    forecast = state.forecast if state else None
    if state is None or forecast is None or forecast.level not in ("warning", "critical"):
        return "", ""
    if state.status in wire.FINAL_STATUSES:
        return "", ""
    return forecast.headline, RISK_COLOURS[forecast.level]


def ahead(state: wire.RunState | None, where: str, rank: int = 0) -> Ahead | None:
    """What is drawn to the right of now in the plot of `host` or `device`; None when there is nothing."""
    if state is None or state.forecast is None or state.status in wire.FINAL_STATUSES:
        return None
    mine = [each for each in state.forecast.outlooks if each.where == where and (where == "host" or each.rank == rank)]
    trend = next((each for each in mine if each.kind == "trend"), None)
    misfit = next((each for each in mine if each.kind == "lookahead"), None)
    if trend is None and misfit is None:
        return None
    rates = (trend.bytes_per_s_low, trend.bytes_per_s, trend.bytes_per_s_high) if trend else ()
    return Ahead(
        float(trend.now_bytes or 0) if trend else 0.0,
        tuple(max(0.0, rate or 0.0) for rate in rates),
        (misfit.in_s or 0.0, float(misfit.need_bytes or 0)) if misfit else None,
    )


def forecast_lines(state: wire.RunState | None) -> list[TextLine]:
    """Every outlook with its figures and what it rests on, then why there is nothing more to warn of."""
    forecast = state.forecast if state else None
    if state is None or forecast is None:
        return [TextLine("nothing has been forecast yet", DIM)]
    lines = []
    if state.status in wire.FINAL_STATUSES:
        lines += [TextLine("the run is over; what follows was said at its end", DIM), TextLine("")]
    if not forecast.outlooks:
        lines += [TextLine("ok: no memory is heading for its end, as far as can be told", GOOD), TextLine("")]
    for outlook in forecast.outlooks:
        lines.append(TextLine(outlook.text, TEXT, ((f"{outlook.level:<9} ", RISK_COLOURS[outlook.level]),)))
        lines += [
            TextLine(text, FAINT, (("          ", FAINT),)) for text in (_figures(outlook), outlook.evidence) if text
        ]
        if deed := what_to_do(outlook, state):
            lines.append(TextLine(deed, INFO, (("          ", FAINT),)))
        lines.append(TextLine(""))
    return lines + [TextLine(ground, DIM, (("· ", FAINT),)) for ground in forecast.grounds]


def what_to_do(outlook: wire.Outlook, state: wire.RunState) -> str:
    """The keys that help, where this run obeys them; empty where there is nothing to do, or nothing any more."""
    if state.status in wire.FINAL_STATUSES or outlook.where not in ("host", "device"):
        return ""
    able = {name for name, reason in state.capabilities.items() if not reason}
    if outlook.kind == "lookahead":
        fits = outlook.fitting_micro_batch
        return f"b: micro-batch {fits} before that step, and back after it" if fits and "SetBatchSplit" in able else ""
    if outlook.level not in ("warning", "critical"):
        return ""
    return "C: full checkpoint, then s: stop" if "SaveCheckpoint" in able else "s: stop it before it is killed"


def _figures(outlook: wire.Outlook) -> str:
    if outlook.kind == "trend":
        latest = format_duration(outlook.in_high_s) if outlook.in_high_s is not None else "no end"
        earliest, likely = format_duration(outlook.in_low_s), format_duration(outlook.in_s)
        return f"likely in {likely}; four times in five between {earliest} and {latest}"
    return ""

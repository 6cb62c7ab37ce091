"""Say what a run came to: verdict, attempts, tightest moments, the split that would have fitted, journal."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from memdash.errors import ExitCode

if TYPE_CHECKING:
    from memdash import wire
    from memdash.report import Advice, GpuUse, Report, Tightest
    from memdash.store.run_directory import RunDirectory

JOURNAL_LINES = 20
REPLAYED_ROWS = 100_000  # of the record, at most: some seconds of CPU
QUESTIONS = 2000  # to the forecast, at most: a long run is asked less often than once a second


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("run", nargs="?", help="a run id, its beginning, or a run directory; default: the newest run")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="everything as one JSON object")
    how.add_argument("--csv", action="store_true", help="every recorded step as CSV")
    how.add_argument("--png", type=Path, metavar="FILE", help="a page that shows the whole run; needs memdash[export]")
    how.add_argument("--svg", type=Path, metavar="FILE", help="the same to be scaled, or put on a web page")
    parser.add_argument(
        "--journal", action="store_true", help=f"the whole journal, not only its last {JOURNAL_LINES} lines"
    )


def run(args: argparse.Namespace) -> int:
    """Read the record, live or over, and print."""
    from memdash.errors import StoreError
    from memdash.report import make_report
    from memdash.store.journal import read_journal
    from memdash.store.recorder import recorded_gpus, recorded_hosts, recorded_ranks
    from memdash.store.run_directory import find_run

    directory = find_run(args.run)
    if args.csv:
        return _print_csv(directory)
    state = directory.state()
    if state is None:
        raise StoreError(f"{directory.path} has no state yet: nothing was started")
    if args.png or args.svg:
        return _draw(args, directory, state)
    rows = (recorded_hosts(directory), recorded_ranks(directory), recorded_gpus(directory))
    report = make_report(state, read_journal(directory.journal), *rows)
    if args.json:
        import json
        from dataclasses import asdict

        import msgspec

        print(json.dumps(msgspec.to_builtins(asdict(report))))
    else:
        entries = None if args.journal else JOURNAL_LINES
        print("\n".join(_lines(report, directory, entries)))
    return ExitCode.OK


def _lines(report: Report, directory: RunDirectory, entries: int | None) -> Iterator[str]:
    from memdash.units import format_duration

    yield report.verdict
    yield str(directory.path)
    if len(report.attempts) > 1:
        yield ""
    for attempt in report.attempts if len(report.attempts) > 1 else ():
        took = format_duration(attempt.ended_s - attempt.started_s)
        yield f"attempt {attempt.attempt}: steps {attempt.first_step}-{attempt.last_step} in {took}{_losses(attempt)}"
    yield ""
    for tightest in report.memory:
        yield from _memory_lines(tightest, report)
    yield from map(_gpu_line, report.gpus)
    if report.advice:
        yield _advice_line(report.advice)
    yield from _curves(directory)
    yield ""
    yield from _alert_lines(directory, report.state)
    yield ""
    shown = report.journal[-entries:] if entries else report.journal
    if len(shown) < len(report.journal):
        yield f"journal, the last {len(shown)} of {len(report.journal)} entries (--journal shows all):"
    for entry in shown:
        yield f"  {time.strftime('%H:%M:%S', time.localtime(entry.time_s))}  #{entry.step:<6} {entry.kind}: {entry.text}"


def _losses(attempt: object) -> str:
    first, last = getattr(attempt, "first_loss", None), getattr(attempt, "last_loss", None)
    return f", loss {first:.4f} -> {last:.4f}" if first is not None and last is not None else ""


def _memory_lines(tightest: Tightest, report: Report) -> Iterator[str]:
    from memdash.units import format_bytes, format_percent

    memory = report.state.memory
    simulated = " (simulated)" if tightest.where != "host" and memory and memory.kind == "simulated" else ""
    at = f" at step {tightest.step}" if tightest.step is not None else ""
    share = format_percent(tightest.peak_bytes / tightest.capacity_bytes) if tightest.capacity_bytes else "n/a"
    yield (
        f"{tightest.where}{simulated}: peak {format_bytes(tightest.peak_bytes)} of {format_bytes(tightest.capacity_bytes)} "
        f"({share}){at}, headroom then {format_bytes(tightest.headroom_bytes)}"
    )
    for micro, peak in sorted(tightest.peak_by_micro_batch.items()):
        yield f"    micro-batch {micro:>4}: peak {format_bytes(peak)}"


def _gpu_line(gpu: GpuUse) -> str:
    from memdash.units import format_bytes

    said = [
        f"{gpu.utilization_percent:.0f}% busy on average" if gpu.utilization_percent is not None else "",
        f"at most {gpu.temperature_c:.0f}°C" if gpu.temperature_c is not None else "",
        f"at most {gpu.power_w:.0f} W" if gpu.power_w is not None else "",
        f"others held up to {format_bytes(int(gpu.others_bytes))}" if gpu.others_bytes else "",
    ]
    return f"{gpu.name}: {', '.join(filter(None, said)) or 'the driver gave no figures'}"


def _advice_line(advice: Advice) -> str:
    from memdash.units import format_bytes

    if advice.micro_batch is None:
        return f"estimate: not even micro-batch 1 leaves a tenth of the device free ({advice.evidence})"
    peak = format_bytes(advice.peak_bytes)
    return f"estimate: the largest micro-batch with a tenth of the device to spare is {advice.micro_batch}, peak {peak} ({advice.evidence})"


def _curves(directory: RunDirectory) -> Iterator[str]:
    from memdash.report import sparkline
    from memdash.store.recorder import recorded_hosts, recorded_ranks
    from memdash.units import format_bytes

    curves: dict[str, list[float]] = {"loss": [], "device peak": [], "host": []}
    for rank, row in recorded_ranks(directory):
        if rank == 0 and row.get("micro_batch") is not None:
            for name, column in (("loss", "loss"), ("device peak", "peak_allocated_bytes")):
                value = row.get(column)
                if value is not None:
                    curves[name].append(value)
    curves["host"] = [row["working_set_bytes"] or 0.0 for row in recorded_hosts(directory)]
    yield ""
    for name, values in curves.items():
        if values:
            low, high = min(values), max(values)
            span = (
                f"{low:.3g} to {high:.3g}"
                if name == "loss"
                else f"{format_bytes(int(low))} to {format_bytes(int(high))}"
            )
            yield f"{name:<12} {sparkline(values)}  {span}"


def _alert_lines(directory: RunDirectory, state: wire.RunState) -> Iterator[str]:
    """What today's forecast makes of the record; the journal has what was said while the run went on."""
    from memdash.forecast.backtest import alerts, replay
    from memdash.units import format_duration
    from memdash.wire import attempt_s

    took_s = state.past_s + attempt_s(state, state.ended_s or time.time())
    every_s = max(1.0, took_s / QUESTIONS)
    said = list(replay(_replayed(directory, state), directory.record().wall_s, every_s))
    span_s = said[-1].forecast.time_s - said[0].forecast.time_s if said else 0.0
    found = alerts(said)
    ends = {each.state.attempt: each.forecast.time_s for each in said}
    if state.ended_s:
        ends[state.attempt] = state.ended_s
    yield f"alerts that would have come in the last {format_duration(span_s)}:{'' if found else ' none'}"
    for alert in found:
        clock = time.strftime("%H:%M:%S", time.localtime(alert.time_s))
        is_over = alert.attempt < state.attempt or state.ended_s
        before = f", {format_duration(ends[alert.attempt] - alert.time_s)} before the end" if is_over else ""
        yield f"  {clock}  #{alert.step:<6} {alert.level}{before}{': ' if alert.headline else ''}{alert.headline}"


def _replayed(directory: RunDirectory, state: wire.RunState) -> Iterator[tuple[wire.Message, wire.RunState]]:
    """Each message with the state after it."""
    from memdash.store.moments import Moment
    from memdash.store.replay import of_device, recorded_run
    from memdash.supervisor.run_state import advance

    known, device = False, state.memory
    for each in recorded_run(directory, REPLAYED_ROWS):
        if isinstance(each, Moment):
            state, known, device = each.state, True, each.state.memory or device
        elif known:
            message = of_device(each, device)
            state = advance(state, message)
            yield message, state


def _draw(args: argparse.Namespace, directory: RunDirectory, state: wire.RunState) -> int:
    from memdash.commands._picture import draw
    from memdash.report import verdict
    from memdash.store.journal import read_journal
    from memdash.store.recorder import recorded_hosts, recorded_ranks
    from memdash.timeline import make_timeline

    journal = read_journal(directory.journal)
    timeline = make_timeline(state, journal, recorded_hosts(directory), recorded_ranks(directory))
    path = args.png or args.svg
    draw(path, "png" if args.png else "svg", state, verdict(state), timeline)
    print(path)
    return ExitCode.OK


def _print_csv(directory: RunDirectory) -> int:
    import csv
    import sys

    from memdash.store.recorder import RANK_COLUMNS, recorded_ranks

    writer = csv.writer(sys.stdout)
    writer.writerow(["rank", *RANK_COLUMNS])
    for rank, row in recorded_ranks(directory):
        writer.writerow([rank, *("" if row[column] is None else f"{row[column]:.10g}" for column in RANK_COLUMNS)])
    return ExitCode.OK

"""A plan as a page of text, and a config's text with another micro-batch (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from memdash.units import format_bytes, format_count, format_percent

BAR = 20
WORDS = {"fits": "fits", "tight": "tight", "unknown": ""}


def page(plan: dict[str, Any], *, simulated: bool) -> Iterator[str]:
    """Lines for a terminal; `simulated` where the capacity is that of the simulated device."""
    model, data = plan["model"], plan["data"]
    trained = "" if model["trainable"] == model["parameters"] else f" ({format_count(model['trainable'])} trained)"
    steps = f"{plan['steps']:,} steps of {plan['group']} examples"
    yield f"{plan['config']}: {format_count(model['parameters'])} parameters{trained}, {plan['precision']}, {steps}"
    yield from _data_lines(data)
    yield _room_line(plan["room"], simulated=simulated)
    yield ""
    yield from _table(plan)
    yield ""
    yield from _paddings(plan)
    yield from _terms(plan)
    yield from _advice(plan)
    if plan["room"]["granularity"] > 1:
        yield (
            "Traced as a CPU computes it: a GPU's own kernels for attention and dropout need less, the fragments of its "
            "allocator some more."
        )
    yield _method_line(plan["method"])


def _data_lines(data: dict[str, Any]) -> Iterator[str]:
    yield (
        f"lengths   {data['examples']:,} examples: median {data['median']:,}, mean {data['mean']:,.1f}, "
        f"90% {data['p90']:,}, 99% {data['p99']:,}, longest {data['longest']:,}"
    )
    padding = data["padding"]
    yield f"padding   global {padding['global']:.1f}x the data, as configured ({data['policy']}) {padding['trained']:.1f}x"
    if data["passes"]:
        total = data["longest"] * len(data["passes"])
        yield (
            f"passes    {len(data['passes'])} of the model for each of the {data['item_name']}: {', '.join(data['passes'])}; "
            f"the longest example takes {data['longest']:,} x {len(data['passes'])} = {total:,}"
        )
    if data["num_outliers"]:
        named = ", ".join(f"{index:,} ({length:,})" for index, length in data["outliers"])
        more = data["num_outliers"] - len(data["outliers"])
        named += f" and {more:,} more" if more else ""
        usual = f"without: longest {data['longest_usual']:,}, global padding {padding['global_usual']:.1f}x"
        yield f"outliers  more than twice the 99% length: example {named}; {usual}"


def _room_line(room: dict[str, Any], *, simulated: bool) -> str:
    if room["capacity_bytes"] is None:
        return "capacity  unknown: give --capacity or --gpu"
    where = room["source"] + (", simulated" if simulated else "")
    taken = (
        f", {format_bytes(room['framework_bytes'])} of it taken before the first tensor"
        if room["framework_bytes"]
        else ""
    )
    return f"capacity  {format_bytes(room['capacity_bytes'])} ({where}){taken}"


def _table(plan: dict[str, Any]) -> Iterator[str]:
    data, capacity = plan["data"], plan["room"]["capacity_bytes"]
    lengths = [f"{name} {data[key]:,}" for name, key in (("longest", "longest"), ("99%", "p99"), ("median", "median"))]
    yield f"{'micro-batch':>11}  {'estimated peak at':<{BAR}}" + "".join(f"  {text:>13}" for text in lengths)
    most = capacity or max(row["peak_bytes"]["longest"] for row in plan["rows"])
    for row in plan["rows"]:
        mark = "*" if row["micro_batch"] == plan["configured"] else " "
        share = row["peak_bytes"]["longest"] / most
        bar = ("━" * max(1, round(BAR * min(1.0, share)))).ljust(BAR)
        peaks = "".join(f"  {format_bytes(row['peak_bytes'][key]):>13}" for key in ("longest", "p99", "median"))
        yield f"{row['micro_batch']:>10}{mark}  {bar}{peaks}  {_verdict(row)}".rstrip()


def _verdict(row: dict[str, Any]) -> str:
    over = row["first_over"]
    if row["verdict"] != "oom":
        return WORDS[row["verdict"]]
    return f"WILL OOM at step {over['step']:,} (example {over['example']:,}, length {over['length']:,})"


def _paddings(plan: dict[str, Any]) -> Iterator[str]:
    """What each way to pad would come to, where that matters."""
    if not plan["paddings"]:
        return
    yield f"  {'data.padding':<40}{'cells':>6}  {'worst step':>10}  with micro-batch {plan['configured']}"
    data = plan["data"]
    for outcome in plan["paddings"]:
        policy = outcome["policy"]
        name, length = policy["padding"], policy["outlier_length"]
        mark = "*" if name == data["policy"] and not length else " "
        name += f', outliers = "{policy["outliers"]}" above {length}' if length else ""
        size = format_bytes(outcome["worst_bytes"])
        yield f"{mark} {name:<40}{outcome['cells']:>5.1f}x  {size:>10}  {_verdict(outcome)}".rstrip()
    yield ""


def _terms(plan: dict[str, Any]) -> Iterator[str]:
    (row,) = (row for row in plan["rows"] if row["micro_batch"] == plan["configured"])
    total = row["peak_bytes"]["longest"]
    yield f"* the config's micro-batch; its {format_bytes(total)} at the longest are"
    for name, size in row["terms"].items():
        if size:
            bar = "━" * round(BAR * size / total)
            yield f"  {name:<16} {format_bytes(size):>9} {format_percent(size / total):>4}  {bar}".rstrip()


def _advice(plan: dict[str, Any]) -> Iterator[str]:
    data, capacity, largest = plan["data"], plan["room"]["capacity_bytes"], plan["largest"]
    if capacity is None:
        return
    (row,) = (row for row in plan["rows"] if row["micro_batch"] == plan["configured"])
    longest, isolated = row["peak_bytes"]["longest"], row["isolated_bytes"]
    if row["verdict"] == "oom" and data["num_outliers"] and isolated < longest:
        usual = data["longest_usual"]
        yield (
            "Padding per micro-batch does not lower the step that holds an outlier. Each in a slice of its own, by "
            f"data.outlier_length = {usual}: {format_bytes(isolated)} instead of {format_bytes(longest)}."
        )
    if largest is None:
        yield "No micro-batch fits: even one example at a time needs more."
    elif largest != plan["configured"]:
        yield f"The largest micro-batch that fits: {largest} (the global batch stays {plan['group']}). --apply FILE writes it."


def _method_line(method: dict[str, Any]) -> str:
    took = f"{method['traces']} traces of a step without running it, {method['cpu_s']:.1f} s of CPU"
    if method["scaled"]:
        return f"Estimated from {took}; scaling checked at the whole group, off by {method['checked_error']:.2%}."
    return f"Estimated from {took}, one for each size, because {method['why_not']}."


def with_micro_batch(text: str, micro_batch: int) -> str:
    """A TOML config with `train.micro_batch` set; all else, comments too, as it was."""
    line = f"micro_batch = {micro_batch}"
    header = re.search(r"^[ \t]*\[[ \t]*train[ \t]*\].*$", text, re.MULTILINE)
    if header is None:
        dotted = re.search(r"^[ \t]*train[ \t]*\.[ \t]*micro_batch[ \t]*=[ \t]*\d+", text, re.MULTILINE)
        if dotted:
            return f"{text[: dotted.start()]}train.{line}{text[dotted.end() :]}"
        first = re.search(r"^[ \t]*train[ \t]*\.", text, re.MULTILINE)
        if first:
            return f"{text[: first.start()]}train.{line}\n{text[first.start() :]}"
        return text.rstrip("\n") + f"\n\n[train]\n{line}\n"
    following = re.search(r"^[ \t]*\[", text[header.end() :], re.MULTILINE)
    stop = header.end() + following.start() if following else len(text)
    body = text[header.end() : stop]
    changed, found = re.subn(r"^([ \t]*micro_batch[ \t]*=[ \t]*)\d+", rf"\g<1>{micro_batch}", body, flags=re.MULTILINE)
    return text[: header.end()] + (changed if found else f"\n{line}{body}") + text[stop:]

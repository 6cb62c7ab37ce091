"""A plan as a page of text, and a config's text with another micro-batch (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from memdash.units import format_bytes, format_count, format_duration, format_percent

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
    (row,) = (row for row in plan["rows"] if row["micro_batch"] == plan["configured"])
    if row["host"]:
        yield _host_line(row["host"], is_gpu=plan["room"]["holder"] == "cuda")
    yield f"disk      {plan['disk']['text']}{_disk_verdict(plan['disk'])}"
    yield ""
    yield from _table(plan)
    yield ""
    yield from _terms(plan)
    yield ""
    yield from _ways(plan)
    yield from _variants(plan)
    yield from advice(plan)
    yield from _probe_lines(plan)
    yield from _method_lines(plan)


def _data_lines(data: dict[str, Any]) -> Iterator[str]:
    yield (
        f"lengths   {data['examples']:,} examples: median {data['median']:,}, mean {data['mean']:,.1f}, "
        f"90% {data['p90']:,}, 99% {data['p99']:,}, longest {data['longest']:,}"
    )
    if data["passes"]:
        total = data["longest"] * len(data["passes"])
        yield (
            f"passes    {len(data['passes'])} for each of the {data['item_name']}: {', '.join(data['passes'])}; "
            f"the longest example takes {data['longest']:,} x {len(data['passes'])} = {total:,}"
        )
    if data["num_outliers"]:
        lines = data["outlier_lines"] or [0] * len(data["outliers"])
        found = zip(data["outliers"], lines, strict=True)
        named = "; ".join(_example(index, data["source"], line, length) for (index, length), line in found)
        more = data["num_outliers"] - len(data["outliers"])
        named += f" and {more:,} more" if more else ""
        yield f"outliers  more than twice the 99% length: {named}; longest without: {data['longest_usual']:,}"


def _example(index: int, source: str, line: int, length: int) -> str:
    """`example 1,871, reviews.csv:2204, length 512`."""
    where = f"{source}:{line}, " if line else ""
    return f"example {index:,}, {where}length {length:,}"


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


def _host_line(host: dict[str, Any], *, is_gpu: bool) -> str:
    parts = [f"libraries {format_bytes(host['imports_bytes'])}", f"data {format_bytes(host['data_bytes'])}"]
    if is_gpu:
        parts.append("CUDA's own libraries, not measured here")
    else:
        how = "returned at once" if host["returns"] else "and the holes that malloc keeps"
        parts.append(f"tensors {format_bytes(host['tensors_bytes'])} ({how})")
    free = f" of {format_bytes(host['free_bytes'])} free" if host["free_bytes"] else ""
    verdict = "; WILL NOT FIT" if host["verdict"] == "oom" else ""
    return f"host      {format_bytes(host['total_bytes'])}{free}: {', '.join(parts)}{verdict}"


def _disk_verdict(disk: dict[str, Any]) -> str:
    budget = disk["budget_bytes"]
    if disk["verdict"] == "refused":
        return f"; budget.disk of {format_bytes(budget)} cannot hold an old and a new one: the run will not start"
    if disk["verdict"] == "makes way":
        return f"; budget.disk of {format_bytes(budget)} is less: older ones will make way sooner"
    return (
        f" of a budget of {format_bytes(budget)}"
        if budget
        else f"; a light one takes {format_bytes(disk['light_bytes'])}"
    )


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
        yield f"{row['micro_batch']:>10}{mark}  {bar}{peaks}  {_verdict(row, data['source'])}".rstrip()
    epoch = -(-data["examples"] // plan["group"])
    if plan["steps"] < epoch and any(_is_not_met(row, capacity) for row in plan["rows"]):
        yield f"The {plan['steps']:,} steps of this run meet no such example; an epoch of {epoch:,} steps would."


def _is_not_met(row: dict[str, Any], capacity: int | None) -> bool:
    """Whether it fits only because the run is over before its longest example comes."""
    return bool(capacity and row["verdict"] in ("fits", "tight") and row["peak_bytes"]["longest"] > capacity)


def _verdict(row: dict[str, Any], source: str) -> str:
    over = row["first_over"]
    if row["verdict"] != "oom":
        return WORDS[row["verdict"]]
    example = _example(over["example"], source, over["line"], over["length"])
    return f"WILL OOM at step {over['step']:,} ({example})"


def _terms(plan: dict[str, Any]) -> Iterator[str]:
    (row,) = (row for row in plan["rows"] if row["micro_batch"] == plan["configured"])
    total = row["peak_bytes"]["longest"]
    yield f"* the config's micro-batch; its {format_bytes(total)} at the longest are"
    for name, size in row["terms"].items():
        if size:
            bar = "━" * round(BAR * size / total)
            yield f"  {name:<16} {format_bytes(size):>9} {format_percent(size / total):>4}  {bar}".rstrip()


def _ways(plan: dict[str, Any]) -> Iterator[str]:
    """How the config pads, and the other ways: what each costs, and what its usual and its worst slice need."""
    ways, capacity = plan["data"]["ways"], plan["room"]["capacity_bytes"]
    without = plan["data"]["num_outliers"]
    yield f"{'padding':<18}{'computed':>9}{'no outliers' if without else '':>13}{'usual slice':>13}{'worst slice':>13}"
    for number, way in enumerate(ways):
        name = way["name"] + ("*" if number == 0 else "")
        usual = f"{way['blow_up_usual']:.1f}x" if without else ""
        figures = f"{way['blow_up']:>8.1f}x{usual:>13}"
        figures += f"{format_bytes(way['usual_bytes']):>13}{format_bytes(way['worst_bytes']):>13}"
        word = "" if capacity is None else "  fits" if way["worst_bytes"] <= capacity else "  too much"
        word = word if way["is_possible"] else "  (not with this task)"
        loses = f"; loses {way['loses']}" if way["loses"] else ""
        yield f"{name:<18}{figures}{word}{loses}"


def _variants(plan: dict[str, Any]) -> Iterator[str]:
    rows = plan["variants"]
    if rows is None:
        yield "What other precisions, optimizers, checkpointing or a frozen encoder would buy: --variants."
        return
    if not rows:
        return
    yield ""
    yield f"{'with':<22}{'worst step':>11}{'':>8}{'largest that fits':>20}"
    for row in rows:
        largest = "none" if row["largest"] is None else str(row["largest"])
        note = "" if row["trains_alike"] else "  another training"
        worst = format_bytes(row["worst_bytes"])
        yield f"{row['name']:<22}{worst:>11}{_percent(row['share']):>8}{largest:>20}{note}".rstrip()


def _percent(share: float) -> str:
    return f"{share:+.0%}"


def advice(plan: dict[str, Any]) -> Iterator[str]:
    """What could be changed, and what it would come to."""
    if plan["room"]["capacity_bytes"] is None:
        return
    (row,) = (row for row in plan["rows"] if row["micro_batch"] == plan["configured"])
    if row["verdict"] == "oom":
        yield from _remedies(plan)
    largest = plan["largest"]
    if largest is None:
        yield "No micro-batch fits: even one example at a time needs more."
    elif largest != plan["configured"]:
        yield f"The largest micro-batch that fits: {largest} (the global batch stays {plan['group']}). --apply FILE writes it."
    if fastest := plan["choices"]["fastest"]:
        recomputed = "its activations computed twice" if fastest["recomputes"] else "nothing computed twice"
        setting = _setting(fastest["keys"], fastest["micro_batch"])
        yield f"Fastest that fits (an estimate: {recomputed}, then the fewest slices): {setting}"
    if smallest := plan["choices"]["smallest"]:
        yield f"Smallest: {format_bytes(smallest['bytes'])} with {_setting(smallest['keys'], smallest['micro_batch'])}"


def _setting(keys: dict[str, Any], micro_batch: int) -> str:
    return ", ".join(f"{key}={value}" for key, value in {**keys, "train.micro_batch": micro_batch}.items())


def _remedies(plan: dict[str, Any]) -> Iterator[str]:
    """What lowers the worst slice, and what lowers only the usual one."""
    own, *others = plan["data"]["ways"]
    others = [way for way in others if way["is_possible"]]
    lower = [way for way in others if way["worst_bytes"] < 0.95 * own["worst_bytes"]]
    vain = [way["name"] for way in others if way not in lower and way["usual_bytes"] < 0.95 * own["usual_bytes"]]
    if vain:
        yield f"{' and '.join(vain)} would lower the usual slice, not the worst one."
    if lower:
        named = ", ".join(f"{way['name']} {format_bytes(way['worst_bytes'])}" for way in lower)
        yield f"The worst slice at micro-batch {plan['configured']}, {format_bytes(own['worst_bytes'])}, is lowered by: {named}."


def _probe_lines(plan: dict[str, Any]) -> Iterator[str]:
    """Estimate and measurement side by side, and what the pace comes to; nothing where nobody asked for a probe."""
    probe = plan.get("probe")
    if probe is None:
        return
    if "why_not" in probe:
        yield f"No probe: {probe['why_not']}"
        return
    (row,) = (row for row in plan["rows"] if row["micro_batch"] == probe["micro_batch"])
    estimate, measured = row["first_steps"]["bytes"], probe["peak_bytes"]
    text = (
        f"Probe: {probe['steps']} real steps on this {probe['device']} at micro-batch {probe['micro_batch']} peaked at "
    )
    yield f"{text}{format_bytes(measured)}, estimated {format_bytes(estimate)} ({_off(estimate, measured)})"
    if row["host"] and probe["device"] == "cpu":
        host = f"{format_bytes(probe['resident_bytes'])} of host memory"
        yield f"  {host}, where the whole run was estimated at {format_bytes(row['host']['total_bytes'])}"
    budget = f" of budget.wall = {plan['wall']}: " if plan["wall"] else ""
    word = "" if not plan["wall"] else "it will do" if probe["in_time"] else "IT WILL NOT DO"
    eta = format_duration(probe["run_s"])
    yield f"  {probe['step_s']:.2f} s for the last step; the whole run about {eta}{budget}{word}"


def _off(estimate: int, measured: int) -> str:
    return f"off by {estimate / measured - 1:+.2%}"


def _method_lines(plan: dict[str, Any]) -> Iterator[str]:
    method = plan["method"]
    took = f"{method['traces']} traces of a step without running it, {method['cpu_s']:.1f} s of CPU"
    if method["scaled"]:
        yield f"Estimated from {took}; scaling checked at the whole group, off by {method['checked_error']:.2%}."
    else:
        yield f"Estimated from {took}, one for each size, because {method['why_not']}."
    if method["as_cuda"]:
        yield (
            "For a GPU: its kernels for attention and dropout, its allocator's fragments, CUDA's context. "
            "Not verified on a GPU."
        )


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

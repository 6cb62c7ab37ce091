"""What was added later, to tune on and to score on, each from draws of its own: other models, slow deaths, fragmentation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from random import Random
from typing import Any, Literal

from benchmarks.corpus.drawn import OVERHEAD_MIB, graph_every, need_mib
from benchmarks.corpus.scenarios import Scenario, device, host, p

Half = Literal["tuning", "scoring"]
Draw = Callable[[str, Random, Half], Scenario]

USUAL = {
    "recurrent": (8, 16, (64, 112)),
    "encoder": (4, 10, (40, 64)),
    "convolutions": (16, 60, (250, 500)),
    "items": (8, 1, (4, 7)),
    "transformer": (8, 16, (64, 112)),
}
"""Of each model: the micro-batch, the shortest length, and between what the longest usual one is drawn."""
SEEDS: dict[Half, str] = {"tuning": "tuning", "scoring": "8f5c9574"}
"""The second one was drawn when everything had been tuned."""
FRESH_SEED = "c4f9a007"
"""Drawn when the others had been scored, and something was mended after that: those that look ahead, once more."""
LIVES_S: dict[Half, tuple[float, float]] = {"tuning": (240, 540), "scoring": (400, 1500)}
"""Of slow deaths."""


def needed_mib(model: str, micro_batch: int, length: int) -> float:
    """About what a step of that model needs; measured once."""
    match model:
        case "recurrent":
            return 3.5 + micro_batch * 0.0244 * length
        case "encoder":
            return 3.0 + micro_batch * (0.00977 * length + 0.0000457 * length**2)
        case "convolutions":
            return 4.0 + micro_batch * 0.0032 * length
        case "items":
            return 2.0 + micro_batch * 0.36 * length
    return need_mib(micro_batch, length)


def outlier(model: str, *, fits: bool, **options: Any) -> Draw:
    """One example far longer than the rest, in one of the steps to come."""

    def draw(name: str, random: Random, _: Half) -> Scenario:
        micro_batch, low, usual = USUAL[model]
        high = random.randint(*usual)
        length, step = round(high * random.uniform(2.5, 5.0)), random.randrange(150, 420)
        share = random.uniform(1.12, 1.6) if fits else random.uniform(0.5, 0.9)
        limit = max(share * needed_mib(model, micro_batch, length), 1.3 * needed_mib(model, micro_batch, high) + 4)
        while not fits and needed_mib(model, micro_batch, length) < 1.1 * limit:
            length += high // 4
        given: dict[str, Any] = {
            "lengths": random.choice(("random", "sorted")),
            "epoch": random.randrange(90, 200),
        } | options
        parts = [p(part, **more) for part, more in given.pop("parts", ())]
        return device(
            name, round(limit), *parts, model=model, low=low, high=high, outlier=(step, length), micro_batch=micro_batch,
            seconds=(step + 50) * 0.2, epoch_steps=given["epoch"], **given,
        )  # fmt: skip

    return draw


def unexplained(model: str, **options: Any) -> Draw:
    """What a step needs has nothing to do with the lengths that are told, or only a little; it always fits."""

    def draw(name: str, random: Random, _: Half) -> Scenario:
        micro_batch, low, usual = USUAL["items" if model == "items" else "transformer"]
        high = usual[1]
        most = (
            3.2 * needed_mib("transformer", micro_batch, high)
            if model == "questions"
            else needed_mib(model, micro_batch, high)
        )
        return device(
            name, round(random.uniform(1.3, 1.7) * most) + 4, model=model, low=low, high=high, lengths="random",
            micro_batch=micro_batch, seconds=random.randrange(80, 110), **options,
        )  # fmt: skip

    return draw


def slow_host(
    part: str, beside: tuple[tuple[str, dict[str, float]], ...] = (), spike: float = 0.0, **options: Any
) -> Draw:
    """A host leak that takes its time; `mib` and `mib_per_s` of what is beside it are shares of the room."""

    def draw(name: str, random: Random, half: Half) -> Scenario:
        limit, base = random.randrange(200, 380, 10), random.randrange(40, 90, 5)
        life_s, step_s = _life_s(random, half), random.uniform(0.4, 1.0)
        neighbour = part == "neighbour"
        room = float(limit - base - OVERHEAD_MIB - (OVERHEAD_MIB if neighbour else 0))
        rate = room * (1 - spike) / life_s
        others = [
            p(kind, **{key: value * room if key.startswith("mib") else value for key, value in o.items()})
            for kind, o in beside
        ]
        leak = (
            p("stairs", mib=rate * 30, every_s=30.0)
            if part == "stairs"
            else p("leak", mib_per_s=rate, heavy=random.random() < 0.4)
        )
        own = [p("base", mib=base), p("metrics", floats=10), *others] + ([] if neighbour else [leak])
        return host(
            name, limit, *own, neighbour=(leak,) if neighbour else (), seconds=1.5 * life_s, step_s=step_s,
            epoch_steps=random.choice((120, 300, 5000)), **options,
        )  # fmt: skip

    return draw


def slow_device(build: Callable[[Random, float, float], tuple[str, dict[str, Any]]], **options: Any) -> Draw:
    """`build` makes a part from a room in MiB and a life in steps."""

    def draw(name: str, random: Random, half: Half) -> Scenario:
        high, room, step_s = random.choice((64, 80, 96, 112)), random.uniform(60, 130), random.uniform(0.4, 0.8)
        steps = _life_s(random, half) / step_s
        given = {"lengths": random.choice(("fixed", "random", "random"))} | options
        return device(
            name, round(need_mib(8, high) + room), build(random, room, steps), high=high, seconds=1.5 * steps * step_s,
            step_s=step_s, epoch_steps=random.choice((120, 300, 5000)), **given,
        )  # fmt: skip

    return draw


def _life_s(random: Random, half: Half) -> float:
    low, high = LIVES_S[half]
    return math.exp(random.uniform(math.log(low), math.log(high)))


def splintered(name: str, random: Random, _: Half) -> Scenario:
    """Ever larger buffers, with something kept between them: every hole is too small."""
    room, every = random.uniform(90, 180), random.randrange(10, 45)
    part = p(
        "splinters",
        mib=random.uniform(11, 15),
        growth=random.uniform(0.02, 0.05),
        every=every,
        keep_mib=random.uniform(1.02, 1.3),
    )
    lengths = random.choice(("fixed", "random"))
    return device(
        name,
        round(room),
        part,
        high=random.choice((48, 64)),
        lengths=lengths,
        seconds=240,
        epoch_steps=random.choice((120, 200, 300)),
    )


EVALUATED = (("evaluation", {"examples": 12, "length": 48, "every": 60}),)
DYING: dict[str, tuple[int, int, Draw]] = {
    "model-recurrent-outlier": (2, 2, outlier("recurrent", fits=False)),
    "model-encoder-outlier": (2, 3, outlier("encoder", fits=False)),
    "model-convolutions-outlier": (1, 2, outlier("convolutions", fits=False)),
    "model-items-outlier": (2, 2, outlier("items", fits=False)),
    "model-grouped-outlier": (1, 2, outlier("transformer", fits=False, slices=3)),
    "model-sliced-outlier": (1, 2, outlier("recurrent", fits=False, slices=3, padding="batch")),
    "model-evaluated-outlier": (1, 2, outlier("transformer", fits=False, parts=EVALUATED)),
    "slow-host-leak": (2, 3, slow_host("leak")),
    "slow-host-leak-walk": (1, 1, slow_host("leak", (("walk", {"mib": 0.08}),), 0.08)),
    "slow-host-leak-saw": (1, 2, slow_host("leak", (("cycles", {"mib_per_s": 0.004, "every_s": 30.0}),), 0.12)),
    "slow-host-leak-evaluations": (1, 1, slow_host("leak", (("spikes", {"mib": 0.25, "every_s": 45.0}),), 0.25)),
    "slow-host-leak-budget": (0, 1, slow_host("leak", (("walk", {"mib": 0.03}),), 0.03, ceiling="budget")),
    "slow-host-stairs": (1, 1, slow_host("stairs")),
    "slow-host-neighbour": (1, 1, slow_host("neighbour", (("walk", {"mib": 0.04}),), 0.04)),
    "slow-device-graphs": (1, 2, slow_device(lambda r, room, steps: p("graphs", examples=1, length=64, every=graph_every(room, steps)))),
    "slow-device-hidden": (1, 2, slow_device(lambda r, room, steps: p("hidden", mib_per_step=room / steps))),
    "slow-device-cache-endless": (1, 1, slow_device(lambda r, room, steps: p("cache", mib=room * 1000 / steps, entries=1000, per_step=1, bound=False))),
    "slow-device-neighbour": (0, 1, slow_device(lambda r, room, steps: p("neighbour", mib_per_step=room / steps))),
    "splintered": (5, 6, splintered),
}  # fmt: skip
"""How many for tuning, and how many for scoring."""

HEALTHY: dict[str, tuple[int, int, Draw]] = {
    "model-recurrent-fits": (1, 1, outlier("recurrent", fits=True)),
    "model-encoder-fits": (1, 1, outlier("encoder", fits=True)),
    "model-convolutions-fits": (1, 1, outlier("convolutions", fits=True)),
    "model-items-fits": (1, 1, outlier("items", fits=True)),
    "model-sliced-fits": (1, 1, outlier("recurrent", fits=True, slices=3, padding="batch")),
    "model-evaluated-fits": (1, 1, outlier("transformer", fits=True, parts=EVALUATED)),
    "model-items-unrelated": (2, 2, unexplained("items", unrelated=900)),
    "model-questions": (2, 2, unexplained("questions")),
    "model-questions-unrelated": (1, 1, unexplained("questions", unrelated=900)),
}  # fmt: skip


def scenarios(kinds: dict[str, tuple[int, int, Draw]], half: Half) -> list[Scenario]:
    """So many of each kind, numbered."""
    mark, place = ("t", 0) if half == "tuning" else ("s", 1)
    return _drawn(((kind, drawn[place], drawn[2]) for kind, drawn in kinds.items()), half, mark, SEEDS[half])


def fresh(kinds: dict[str, tuple[int, int, Draw]]) -> list[Scenario]:
    """As many of those that look ahead as there are for scoring already, once more."""
    wanted = ((kind, count, draw) for kind, (_, count, draw) in kinds.items() if kind.startswith("model-"))
    return _drawn(wanted, "scoring", "f", FRESH_SEED)


def _drawn(kinds: Iterable[tuple[str, int, Draw]], half: Half, mark: str, seed: str) -> list[Scenario]:
    return [
        draw(name, Random(f"{seed} {name}"), half)
        for kind, count, draw in kinds
        for name in (f"{kind}-{mark}{number}" for number in range(1, count + 1))
    ]

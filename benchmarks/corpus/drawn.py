"""What was scored first: the kinds of training that the tuning split has, with figures drawn at random.

How long a dying one lives is drawn, and the rate of its growth follows; the draw is the same every time.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from benchmarks.corpus.scenarios import LOGS, Scenario, device, host, p

OVERHEAD_MIB = 27
"""Of a Python process that trains nothing."""
HOUR = 1500.0

Draw = Callable[[str, Random], Scenario]


def place(random: Random) -> tuple[int, int, float]:
    """A limit, what is there from the beginning, and the room between them, in MiB."""
    limit, base = random.randrange(260, 620, 10), random.randrange(60, 125, 5)
    return limit, base, float(limit - base - OVERHEAD_MIB)


def growing(*others: tuple[str, dict[str, float]], spike: float = 0.0, **options: object) -> Draw:
    """A host leak with something beside it that needs `spike` of the room."""

    def draw(name: str, random: Random) -> Scenario:
        limit, base, room = place(random)
        rate = room * (1 - spike) / random.uniform(55, 150)
        parts = [p(part, **{key: _sized(key, value, room) for key, value in o.items()}) for part, o in others]
        leak = p("leak", mib_per_s=rate, heavy=random.random() < 0.3)
        return host(name, limit, p("base", mib=base), leak, *parts, seconds=180, **_epoch(random), **options)

    return draw


def _sized(key: str, value: float, room: float) -> float:
    """`mib` is meant as a share of the room."""
    return value * room if key in ("mib", "mib_per_s") else value


def _varied(key: str, value: float, random: Random) -> float:
    return value if key == "workers" else value * random.uniform(0.75, 1.25)


def _epoch(random: Random) -> dict[str, int]:
    return {"epoch_steps": random.choice((120, 200, 300, 5000))}


def steady(*parts: tuple[str, dict[str, float]], **options: object) -> Draw:
    """A healthy one on the host; `mib` and `mib_per_s` are shares of the room."""

    def draw(name: str, random: Random) -> Scenario:
        limit, base, room = place(random)
        made = [
            p(part, **{key: _varied(key, _sized(key, value, room), random) for key, value in o.items()})
            for part, o in parts
        ]
        given = _epoch(random) | {"seconds": random.randrange(90, 150)} | options
        return host(name, limit, p("base", mib=base), LOGS, *made, **given)

    return draw


def late(name: str, random: Random) -> Scenario:
    """A host leak that begins in the middle of a run."""
    limit, base, room = place(random)
    begin_s = random.uniform(30, 60)
    leak = p("leak", mib_per_s=room / random.uniform(50, 100), begin_s=begin_s)
    return host(name, limit, p("base", mib=base), leak, p("walk", mib=6), seconds=180, **_epoch(random))


def accelerating(name: str, random: Random) -> Scenario:
    """Ever faster."""
    limit, base, room = place(random)
    leak = p("accelerating_leak", mib_per_s2=2 * room / random.uniform(70, 140) ** 2)
    return host(name, limit, p("base", mib=base), leak, LOGS, seconds=180, **_epoch(random))


def epochs_kept(count: int | None) -> Draw:
    """Something is kept of every epoch; or of a few, and then no more."""

    def draw(name: str, random: Random) -> Scenario:
        limit, base, room = place(random)
        every_s = random.uniform(6, 12)
        share = every_s / random.uniform(70, 140) if count is None else random.uniform(0.1, 0.35) / count
        stairs = p("stairs", mib=share * room, every_s=every_s, **({} if count is None else {"count": count}))
        steps = round(every_s / 0.2)
        return host(
            name,
            limit,
            p("base", mib=base),
            stairs,
            p("walk", mib=5),
            seconds=180 if count is None else 130,
            epoch_steps=steps,
        )

    return draw


def cached(*, shuffled: bool) -> Draw:
    """All examples are kept once they were seen: in order, within the first epoch."""

    def draw(name: str, random: Random) -> Scenario:
        limit, base, room = place(random)
        steps, per_step = random.randrange(120, 330), random.choice((2, 3, 4))
        cache = p(
            "cache",
            mib=room * random.uniform(0.15, 0.6),
            entries=steps * per_step,
            per_step=per_step,
            shuffled=shuffled,
        )
        return host(name, limit, p("base", mib=base), cache, LOGS, seconds=steps * 0.2 + 60, epoch_steps=steps)

    return draw


def beside(part: str, *, dies: bool = False, **shares: float) -> Draw:
    """A neighbour in the same cgroup."""

    def draw(name: str, random: Random) -> Scenario:
        limit, base, room = place(random)
        room -= OVERHEAD_MIB
        if dies:
            begin_s = random.choice((0.0, random.uniform(25, 50)))
            options = {"mib_per_s": room / random.uniform(60, 110), "begin_s": begin_s}
        else:
            options = {key: _varied(key, _sized(key, value, room), random) for key, value in shares.items()}
        seconds = 180 if dies else random.randrange(100, 150)
        own = (p("base", mib=base), LOGS, p("walk", mib=6))
        return host(name, limit, *own, neighbour=(p(part, **options),), seconds=seconds, **_epoch(random))

    return draw


# ---- the device ----


def need_mib(micro_batch: int, length: int) -> float:
    """About what a step of the small transformer needs."""
    return 2 + micro_batch / 8 * (0.078 * length + 0.0004 * length**2)


def trained(
    build: Callable[[Random, float, float], tuple[str, dict[str, float]] | None],
    *,
    dies: bool = False,
    **options: object,
) -> Draw:
    """`build` makes a part from a room in MiB and a life in steps."""

    def draw(name: str, random: Random) -> Scenario:
        high = random.choice((64, 80, 96, 112))
        room = random.uniform(60, 130)
        life = random.uniform(300, 650)
        part = build(random, room, life)
        given = {"lengths": random.choice(("fixed", "random", "random"))} | _epoch(random) | options
        seconds = {"seconds": 180 if dies else random.randrange(85, 120)}
        limit = round(need_mib(8, high) + room)
        return device(name, limit, *(part,) if part else (), high=high, **(seconds | given))

    return draw


def outlier(*, fits: bool, **options: object) -> Draw:
    """One example far longer than the rest."""

    def draw(name: str, random: Random) -> Scenario:
        micro_batch, high = random.choice((8, 16)), random.choice((64, 80, 96, 112))
        length, step = random.randrange(280, 520), random.randrange(150, 520)
        share = random.uniform(1.12, 1.6) if fits else random.uniform(0.45, 0.9)
        limit = max(share * need_mib(micro_batch, length), 1.3 * need_mib(micro_batch, high))
        given = {"lengths": "random"} | _epoch(random) | options
        return device(
            name,
            round(limit),
            high=high,
            outlier=(step, length),
            micro_batch=micro_batch,
            seconds=(step + 60) * 0.2,
            **given,
        )

    return draw


def graph_every(room: float, life: float, length: int = 64) -> int:
    """Steps between two graphs that are kept, so that they fill the room in that many steps."""
    kept_mib = 0.0085 * length + 0.000018 * length**2
    return max(1, round(kept_mib * life / room))


DYING: dict[str, tuple[int, Draw]] = {
    "host-leak": (3, growing(("metrics", {}))),
    "host-leak-walk": (1, growing(("walk", {"mib": 0.04}), spike=0.04)),
    "host-leak-saw": (2, growing(("cycles", {"mib_per_s": 0.03, "every_s": 6.0}), spike=0.18)),
    "host-leak-evaluations": (2, growing(("spikes", {"mib": 0.3, "every_s": 13.0}), spike=0.3)),
    "host-leak-warm-up": (1, growing(("warm_up", {"mib": 0.3, "tau_s": 9.0}), spike=0.3)),
    "host-leak-page-cache": (1, growing(("page_cache", {"mib_per_s": 0.05}))),
    "host-leak-budget": (1, growing(("walk", {"mib": 0.03}), spike=0.03, ceiling="budget")),
    "host-leak-late": (2, late),
    "host-leak-accelerating": (1, accelerating),
    "host-epochs": (2, epochs_kept(None)),
    "host-neighbour-grows": (2, beside("leak", dies=True)),
    "device-graphs": (3, trained(lambda r, room, life: p("graphs", examples=1, length=64, every=graph_every(room, life)), dies=True)),
    "device-hidden": (2, trained(lambda r, room, life: p("hidden", mib_per_step=room / life), dies=True)),
    "device-hidden-untold": (1, trained(lambda r, room, life: p("hidden", mib_per_step=room / life), dies=True, told=False)),
    "device-epochs": (1, trained(lambda r, room, life: p("epochs", mib=room / life * 40, every=40), dies=True, epoch_steps=40)),
    "device-cache-endless": (1, trained(lambda r, room, life: p("cache", mib=room * 1000 / life, entries=1000, per_step=1, bound=False), dies=True)),
    "device-neighbour-grows": (2, trained(lambda r, room, life: p("neighbour", mib_per_step=room / life, begin=r.choice((0, 150))), dies=True)),
    "device-splinters": (2, trained(lambda r, room, life: p("splinters", mib=r.uniform(11, 14), growth=0.03, every=r.randrange(20, 50)), dies=True)),
    "device-outlier": (4, outlier(fits=False)),
    "device-outlier-sorted": (1, outlier(fits=False, lengths="sorted", epoch=150, epoch_steps=150)),
}  # fmt: skip

HEALTHY: dict[str, tuple[int, Draw]] = {
    "host-flat": (1, steady(("walk", {"mib": 0.03}))),
    "host-warm-up": (2, steady(("warm_up", {"mib": 0.45, "tau_s": 15.0}))),
    "host-cached": (3, cached(shuffled=False)),
    "host-cached-shuffled": (2, cached(shuffled=True)),
    "host-saw": (2, steady(("cycles", {"mib_per_s": 0.015, "every_s": 18.0}), ("walk", {"mib": 0.03}))),
    "host-evaluations": (2, steady(("spikes", {"mib": 0.45, "every_s": 16.0, "for_s": 1.5}))),
    "host-prefetch": (2, steady(("prefetch", {"workers": 2, "mib": 0.01}))),
    "host-sorted": (1, steady(("sorted_lengths", {"mib": 0.4, "epoch_s": 25.0}))),
    "host-sorted-kept": (1, steady(("held_lengths", {"mib": 0.4, "epoch_s": 27.0}))),
    "host-page-cache": (1, steady(("page_cache", {"mib_per_s": 0.08}))),
    "host-epochs-stop": (2, epochs_kept(4)),
    "host-neighbour": (2, beside("walk", mib=0.5)),
    "host-neighbour-bursts": (1, beside("spikes", mib=0.5, every_s=19.0, for_s=4.0)),
    "device-lengths": (2, trained(lambda r, room, life: None)),
    "device-lengths-sorted": (2, trained(lambda r, room, life: None, lengths="sorted", epoch=100, epoch_steps=100)),
    "device-lengths-untold": (1, trained(lambda r, room, life: None, lengths="random", told=False)),
    "device-evaluations": (1, trained(lambda r, room, life: p("evaluation", examples=24, length=96, every=70))),
    "device-copies": (1, trained(lambda r, room, life: p("copies", every=60))),
    "device-moving-average": (1, trained(lambda r, room, life: p("copies", every=0, keep=True, at=r.randrange(60, 300)))),
    "device-cache": (2, trained(lambda r, room, life: p("cache", mib=room * r.uniform(0.15, 0.5), entries=600, per_step=3), epoch_steps=200)),
    "device-cycles": (1, trained(lambda r, room, life: p("cycles", mib=0.4, every=50))),
    "device-graphs-stop": (1, trained(lambda r, room, life: p("graphs", examples=1, length=64, every=3, most=int(room * r.uniform(0.15, 0.35) / 0.6)))),
    "device-neighbour": (1, trained(lambda r, room, life: p("neighbour", mib_per_step=0, walk_mib=room * 0.3))),
    "device-neighbour-moves-in": (1, trained(lambda r, room, life: p("neighbour", mib_per_step=room / 50, begin=150, until=170))),
    "device-validation-kept": (1, trained(lambda r, room, life: p("epochs", mib=room * 0.1, every=90, most=3), epoch_steps=90)),
    "device-outlier-fits": (3, outlier(fits=True)),
}  # fmt: skip

LONG: dict[str, tuple[int, Draw]] = {
    "long-host": (1, steady(("walk", {"mib": 0.05}), ("spikes", {"mib": 0.3, "every_s": 100.0}), seconds=HOUR, step_s=0.5)),
    "long-host-saw": (1, steady(("cycles", {"mib_per_s": 0.006, "every_s": 50.0}), seconds=HOUR, step_s=0.5)),
    "long-host-lengths": (1, steady(("held_lengths", {"mib": 0.4, "epoch_s": 110.0}), seconds=HOUR, step_s=0.5, epoch_steps=220)),
    "long-device": (2, trained(lambda r, room, life: p("evaluation", examples=20, length=96, every=200), lengths="random", seconds=HOUR, step_s=0.5)),
    "long-device-sorted": (1, trained(lambda r, room, life: p("cycles", mib=0.3, every=80), lengths="sorted", epoch=200, epoch_steps=200, seconds=HOUR, step_s=0.5)),
}  # fmt: skip


def scenarios(kinds: dict[str, tuple[int, Draw]]) -> list[Scenario]:
    """So many of each kind, numbered."""
    return [
        draw(f"{kind}-{number}", Random(f"scored {kind} {number}"))
        for kind, (count, draw) in kinds.items()
        for number in range(1, count + 1)
    ]

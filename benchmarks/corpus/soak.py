"""Healthy runs of more than an hour each: enough of them to say how rare a false alarm is.

Every healthy kind that the other traces have, slower, with figures drawn at random; the draw is the same every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

from benchmarks.corpus.drawn import OVERHEAD_MIB, need_mib
from benchmarks.corpus.scenarios import Scenario, device, host, p

SECONDS = 4200.0
LOGS = p("metrics", floats=10)
Part = tuple[str, dict[str, Any]]


class Run:
    """What is drawn for every one of them: a pace, a limit, what is there from the beginning, and the room between."""

    def __init__(self, name: str, seed: str = "soak", seconds: float = SECONDS) -> None:
        self.name, self.seconds = name, seconds
        self.random = Random(f"{seed} {name}")
        self.step_s = self.random.uniform(0.7, 1.8)
        self.limit = self.random.randrange(170, 330, 10)
        self.base = self.random.randrange(30, 75, 5)
        self.room = float(self.limit - self.base - OVERHEAD_MIB)

    def share(self, low: float, high: float) -> float:
        """So much of the room, in MiB."""
        return self.room * self.random.uniform(low, high)

    def span(self, low_s: float, high_s: float) -> float:
        """Seconds; as likely between 1 and 10 minutes as between 6 and 60 s."""
        return math.exp(self.random.uniform(math.log(low_s), math.log(high_s)))

    def on_host(self, *parts: Part, neighbour: Part | None = None, epoch_s: float | None = None) -> Scenario:
        """Under a memory cgroup, or a budget."""
        alone = neighbour is None
        return host(
            self.name,
            self.limit,
            p("base", mib=self.base),
            LOGS,
            *parts,
            neighbour=() if alone else (neighbour,),
            ceiling=self.random.choice(("cgroup", "cgroup", "budget")) if alone else "cgroup",
            **self._common(epoch_s),
        )

    def on_device(self, *parts: Part, room: float, epoch_s: float | None = None, **options: Any) -> Scenario:
        """With so many MiB more than a step needs."""
        high = self.random.choice((64, 80, 96, 112))
        given = {"lengths": self.random.choice(("fixed", "random", "random"))} | options
        return device(self.name, round(need_mib(8, high) + room), *parts, high=high, **self._common(epoch_s), **given)

    def _common(self, epoch_s: float | None) -> dict[str, Any]:
        steps = round(epoch_s / self.step_s) if epoch_s else self.random.choice((120, 300, 900, 5000))
        return {"seconds": self.seconds, "step_s": self.step_s, "epoch_steps": steps}


def flat(run: Run) -> Scenario:
    """Memory that comes and goes."""
    return run.on_host(p("walk", mib=run.share(0.03, 0.2)))


def warm_up(run: Run) -> Scenario:
    """Ever slower growth."""
    return run.on_host(
        p("warm_up", mib=run.share(0.2, 0.55), tau_s=run.span(30, 500)), p("walk", mib=run.share(0.01, 0.05))
    )


def cached(run: Run) -> Scenario:
    """Every example is kept once it was seen, in order."""
    return _cached(run, shuffled=False)


def cached_shuffled(run: Run) -> Scenario:
    """The same, drawn with replacement."""
    return _cached(run, shuffled=True)


def _cached(run: Run, *, shuffled: bool) -> Scenario:
    epoch_s, per_step = run.span(240, 2400), run.random.choice((2, 3, 4))
    cache = p(
        "cache",
        mib=run.share(0.15, 0.6),
        entries=round(epoch_s / run.step_s) * per_step,
        per_step=per_step,
        shuffled=shuffled,
    )
    return run.on_host(cache, epoch_s=epoch_s)


def saw(run: Run) -> Scenario:
    """Garbage that is collected now and then."""
    every_s = run.span(30, 600)
    return run.on_host(
        p("cycles", mib_per_s=run.share(0.05, 0.4) / every_s, every_s=every_s), p("walk", mib=run.share(0.01, 0.05))
    )


def evaluations(run: Run) -> Scenario:
    """What needs much for a while."""
    every_s = run.span(60, 500)
    return run.on_host(
        p("spikes", mib=run.share(0.2, 0.55), every_s=every_s, for_s=0.02 * every_s),
        p("walk", mib=run.share(0.01, 0.05)),
    )


def checkpoints(run: Run) -> Scenario:
    """What needs much for a moment, on a saw."""
    every_s = run.span(20, 90)
    saves = p("spikes", mib=run.share(0.1, 0.4), every_s=run.span(60, 400), for_s=0.3)
    return run.on_host(saves, p("cycles", mib_per_s=run.share(0.05, 0.15) / every_s, every_s=every_s))


def prefetch(run: Run) -> Scenario:
    """Loader processes."""
    return run.on_host(
        p("prefetch", workers=2, mib=run.share(0.005, 0.02)),
        p("spikes", mib=run.share(0.1, 0.3), every_s=run.span(60, 400)),
    )


def lengths(run: Run) -> Scenario:
    """Epochs sorted by length."""
    epoch_s = run.span(90, 600)
    return run.on_host(p("sorted_lengths", mib=run.share(0.15, 0.4), epoch_s=epoch_s), epoch_s=epoch_s)


def lengths_held(run: Run) -> Scenario:
    """The same with a buffer that grows through an epoch."""
    epoch_s = run.span(90, 600)
    return run.on_host(p("held_lengths", mib=run.share(0.2, 0.5), epoch_s=epoch_s), epoch_s=epoch_s)


def page_cache(run: Run) -> Scenario:
    """Files written and read."""
    return run.on_host(p("page_cache", mib_per_s=run.share(0.002, 0.008)), p("walk", mib=run.share(0.01, 0.08)))


def epochs_stop(run: Run) -> Scenario:
    """Something is kept of the first few epochs."""
    count, every_s = run.random.randrange(3, 8), run.span(60, 400)
    return run.on_host(p("stairs", mib=run.share(0.1, 0.4) / count, every_s=every_s, count=count), epoch_s=every_s)


def neighbour(run: Run) -> Scenario:
    """Another process in the same cgroup comes and goes."""
    run.room -= OVERHEAD_MIB
    return run.on_host(p("walk", mib=run.share(0.02, 0.08)), neighbour=p("walk", mib=run.share(0.3, 0.6)))


def neighbour_bursts(run: Run) -> Scenario:
    """Another process needs much now and then."""
    run.room -= OVERHEAD_MIB
    every_s = run.span(60, 400)
    return run.on_host(neighbour=p("spikes", mib=run.share(0.2, 0.6), every_s=every_s, for_s=0.15 * every_s))


def device_lengths(run: Run) -> Scenario:
    """Random lengths and evaluations."""
    return run.on_device(
        p("evaluation", examples=24, length=96, every=run.random.randrange(60, 400)),
        room=run.random.uniform(50, 110),
        lengths="random",
    )


def device_sorted(run: Run) -> Scenario:
    """Sorted lengths, and garbage."""
    epoch = run.random.randrange(90, 500)
    return run.on_device(
        p("cycles", mib=0.3, every=run.random.randrange(40, 120)),
        room=run.random.uniform(60, 120),
        lengths="sorted",
        epoch=epoch,
        epoch_s=epoch * run.step_s,
    )


def device_untold(run: Run) -> Scenario:
    """Lengths that nobody tells of, and a second set of weights for every save."""
    return run.on_device(
        p("copies", every=run.random.randrange(60, 300)), room=run.random.uniform(50, 110), lengths="random", told=False
    )


def device_cache(run: Run) -> Scenario:
    """Features kept in the first epoch."""
    room, epoch_s = run.random.uniform(60, 120), run.span(300, 2000)
    entries = 3 * round(epoch_s / run.step_s)
    return run.on_device(
        p("cache", mib=room * run.random.uniform(0.15, 0.5), entries=entries, per_step=3), room=room, epoch_s=epoch_s
    )


def device_graphs_stop(run: Run) -> Scenario:
    """Graphs are kept for some minutes, then no more."""
    room = run.random.uniform(60, 120)
    most = int(room * run.random.uniform(0.15, 0.35) / 0.6)
    return run.on_device(p("graphs", examples=1, length=64, every=run.random.randrange(3, 12), most=most), room=room)


def device_neighbour(run: Run) -> Scenario:
    """Another process on the device comes and goes; a moving average of the weights begins."""
    room = run.random.uniform(60, 120)
    average = p("copies", every=0, keep=True, at=run.random.randrange(100, 900))
    return run.on_device(
        p("neighbour", mib_per_step=0, walk_mib=room * run.random.uniform(0.2, 0.4)), average, room=room
    )


def device_moves_in(run: Run) -> Scenario:
    """Another process takes its part of the device and keeps it."""
    room, begin = run.random.uniform(60, 120), run.random.randrange(200, 900)
    took = run.random.randrange(10, 90)
    return run.on_device(
        p("neighbour", mib_per_step=room * run.random.uniform(0.15, 0.4) / took, begin=begin, until=begin + took),
        room=room,
    )


def device_validation_kept(run: Run) -> Scenario:
    """The validation features of the first few epochs are kept."""
    room, every, most = run.random.uniform(60, 120), run.random.randrange(60, 250), run.random.randrange(2, 6)
    return run.on_device(
        p("epochs", mib=room * run.random.uniform(0.1, 0.35) / most, every=every, most=most),
        room=room,
        epoch_s=every * run.step_s,
    )


def device_splinters_stop(run: Run) -> Scenario:
    """Fragments pile up for a while."""
    room = run.random.uniform(90, 140)
    return run.on_device(
        p("splinters", mib=6, growth=0.02, every=run.random.randrange(7, 40), most=run.random.randrange(15, 40)),
        room=room,
        lengths="fixed",
    )


def device_outlier_fits(run: Run) -> Scenario:
    """One example far longer than the rest, that fits."""
    step, length = run.random.randrange(300, 2000), run.random.randrange(250, 420)
    return run.on_device(
        room=run.random.uniform(1.12, 1.5) * need_mib(8, length), lengths="random", outlier=(step, length)
    )


KINDS: tuple[tuple[Callable[[Run], Scenario], int], ...] = (
    (flat, 1), (warm_up, 2), (cached, 2), (cached_shuffled, 2), (saw, 2), (evaluations, 1), (checkpoints, 1), (prefetch, 1),
    (lengths, 1), (lengths_held, 2), (page_cache, 1), (epochs_stop, 1), (neighbour, 1), (neighbour_bursts, 1),
    (device_lengths, 1), (device_sorted, 1), (device_untold, 1), (device_cache, 1), (device_graphs_stop, 1),
    (device_neighbour, 1), (device_moves_in, 1), (device_validation_kept, 1), (device_splinters_stop, 1), (device_outlier_fits, 1),
)  # fmt: skip
"""How many of each."""


def soak(mark: str = "", **options: Any) -> tuple[Scenario, ...]:
    """So many of each, numbered behind a mark."""
    return tuple(
        kind(Run(f"soak-{kind.__name__.replace('_', '-')}-{mark}{number}", **options))
        for kind, count in KINDS
        for number in range(1, count + 1)
    )


SOAK = soak()

"""The tuning split of the corpus: which parts each trace combines, under which ceiling, for how long.

It was written, recorded and looked at first. A trace is healthy or dead by what really happened.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Parts = tuple[tuple[str, dict[str, Any]], ...]
Ceiling = Literal["cgroup", "budget", "RLIMIT_AS", "device"]
OF_TRAINING = ("lengths", "low", "high", "outlier", "epoch", "told", "model", "slices", "padding", "unrelated")


@dataclass(frozen=True)
class Scenario:
    """One trace."""

    name: str
    parts: Parts
    ceiling: Ceiling
    limit_mib: float
    seconds: float = 100.0
    step_s: float = 0.2
    micro_batch: int = 8
    neighbour: Parts = ()
    """Another process in the same cgroup."""
    epoch_steps: int = 200
    """Steps in which every example comes once, as the run announces."""
    device: dict[str, Any] = field(default_factory=dict)
    """Options of the training on the simulated device."""

    @property
    def on_device(self) -> bool:
        """Whether it trains there."""
        return self.ceiling == "device"


def host(name: str, limit_mib: float, *parts: tuple[str, dict[str, Any]], **options: Any) -> Scenario:
    """Under a memory cgroup unless said otherwise."""
    return Scenario(name=name, parts=parts, limit_mib=limit_mib, **{"ceiling": "cgroup", **options})


def device(name: str, limit_mib: float, *parts: tuple[str, dict[str, Any]], **options: Any) -> Scenario:
    """On the simulated device; options of the training go by their own names."""
    own = {key: options.pop(key) for key in OF_TRAINING if key in options}
    return Scenario(name=name, parts=parts, limit_mib=limit_mib, ceiling="device", device=own, **options)


def p(name: str, **options: Any) -> tuple[str, dict[str, Any]]:
    """A part."""
    return name, options


BASE = p("base", mib=80)
LOGS = p("metrics")

HEALTHY_HOST = [
    host("host-flat", 400, BASE, LOGS, p("walk", mib=4)),
    host("host-flat-tight", 200, p("base", mib=130), LOGS, p("walk", mib=6), seconds=130),
    host("host-warm-up", 400, BASE, p("warm_up", mib=120, tau_s=12), LOGS),
    host("host-warm-up-slow", 500, BASE, p("warm_up", mib=160, tau_s=30), p("walk", mib=8), seconds=170),
    host("host-cache-stops", 500, BASE, p("cache", mib=110, entries=700, per_step=4), LOGS, seconds=120, epoch_steps=175),
    host("host-cache-stops-late", 600, BASE, p("cache", mib=120, entries=1600, per_step=5), p("walk", mib=5), seconds=160, epoch_steps=320),
    host("host-cache-shuffled", 450, BASE, p("cache", mib=160, entries=600, per_step=3, shuffled=True), seconds=150, epoch_steps=200),
    host("host-cache-large", 400, BASE, p("cache", mib=180, entries=400, per_step=4), LOGS, seconds=90, epoch_steps=100),
    host("host-saw-short", 400, BASE, p("cycles", mib_per_s=8, every_s=6), LOGS),
    host("host-saw-long", 400, BASE, p("cycles", mib_per_s=3, every_s=28), p("walk", mib=6), seconds=150),
    host("host-evaluations", 450, BASE, p("spikes", mib=150, every_s=17), LOGS, seconds=120),
    host("host-checkpoints", 400, BASE, p("spikes", mib=100, every_s=11, for_s=0.3), p("walk", mib=10)),
    host("host-evaluations-budget", 380, BASE, p("spikes", mib=120, every_s=31, for_s=4), LOGS, ceiling="budget", seconds=140),
    host("host-prefetch", 500, BASE, p("prefetch", workers=2, mib=4, depth=6), LOGS, seconds=110),
    host("host-prefetch-budget", 900, BASE, p("prefetch", workers=3, mib=6, depth=4), p("spikes", mib=60, every_s=20), ceiling="budget"),
    host("host-neighbour-noisy", 500, BASE, LOGS, neighbour=(p("walk", mib=160),), seconds=130),
    host("host-neighbour-bursts", 500, BASE, p("walk", mib=5), neighbour=(p("spikes", mib=180, every_s=23, for_s=6),), seconds=120),
    host("host-sorted-epochs", 350, BASE, p("sorted_lengths", mib=90, epoch_s=27), LOGS, seconds=140, epoch_steps=135),
    host("host-sorted-kept", 400, BASE, p("held_lengths", mib=110, epoch_s=33), LOGS, seconds=150, epoch_steps=165),
    host("host-page-cache", 350, BASE, p("page_cache", mib_per_s=20), LOGS, seconds=110),
    host("host-stairs-stop", 450, BASE, p("stairs", mib=22, every_s=9, count=5), p("walk", mib=4), seconds=130, epoch_steps=45),
    host("host-rlimit-flat", 700, BASE, p("warm_up", mib=100, tau_s=8), p("walk", mib=20), ceiling="RLIMIT_AS"),
]  # fmt: skip

DYING_HOST = [
    host("host-leak-slow", 330, BASE, p("leak", mib_per_s=1.7), LOGS, seconds=180),
    host("host-leak-slower", 260, p("base", mib=100), p("leak", mib_per_s=0.9), p("walk", mib=8), seconds=180),
    host("host-leak-fast", 400, BASE, p("leak", mib_per_s=6.5), LOGS, seconds=120),
    host("host-leak-heavy", 400, BASE, p("leak", mib_per_s=2.6, heavy=True), p("walk", mib=10), seconds=180),
    host("host-leak-late", 400, BASE, p("leak", mib_per_s=3.5, begin_s=45), p("walk", mib=6), seconds=180),
    host("host-leak-on-a-saw", 420, BASE, p("leak", mib_per_s=2.4), p("cycles", mib_per_s=8, every_s=7), seconds=180),
    host("host-leak-accelerating", 400, BASE, p("accelerating_leak", mib_per_s2=0.045), LOGS, seconds=180),
    host("host-leak-per-epoch", 400, BASE, p("stairs", mib=26, every_s=10), p("walk", mib=5), seconds=180, epoch_steps=50),
    host("host-leak-per-epoch-sorted", 420, BASE, p("stairs", mib=16, every_s=7), p("sorted_lengths", mib=50, epoch_s=14), seconds=180, epoch_steps=70),
    host("host-leak-evaluations", 450, BASE, p("leak", mib_per_s=1.8), p("spikes", mib=90, every_s=14), seconds=180),
    host("host-leak-warm-up", 420, BASE, p("warm_up", mib=90, tau_s=10), p("leak", mib_per_s=2.0), seconds=180),
    host("host-leak-page-cache", 380, BASE, p("leak", mib_per_s=2.5), p("page_cache", mib_per_s=15), seconds=180),
    host("host-cache-endless", 380, BASE, p("endless_cache", mib_per_s=2.6), LOGS, seconds=180),
    host("host-cache-endless-bursts", 420, BASE, p("endless_cache", mib_per_s=3.0, hits=0.9), p("walk", mib=12), seconds=180),
    host("host-neighbour-grows", 420, BASE, LOGS, neighbour=(p("leak", mib_per_s=2.6),), seconds=180),
    host("host-neighbour-grows-late", 420, BASE, p("walk", mib=8), neighbour=(p("leak", mib_per_s=4.5, begin_s=40),), seconds=180),
    host("host-workers-leak", 420, BASE, p("prefetch", workers=2, mib=2, leak_mib_per_s=2.2), LOGS, seconds=180),
    host("host-budget-leak", 350, BASE, p("leak", mib_per_s=2.2), LOGS, ceiling="budget", seconds=180),
    host("host-rlimit-leak", 620, BASE, p("leak", mib_per_s=3.4), p("walk", mib=10), ceiling="RLIMIT_AS", seconds=180),
    host("host-rlimit-leak-fast", 500, BASE, p("leak", mib_per_s=7.0), LOGS, ceiling="RLIMIT_AS", seconds=120),
]  # fmt: skip

HEALTHY_DEVICE = [
    device("device-flat", 48, high=96),
    device("device-random-lengths", 48, lengths="random", low=16, high=128),
    device("device-random-tight", 22, lengths="random", low=16, high=128, seconds=120),
    device("device-untold-lengths", 40, lengths="random", low=16, high=112, told=False),
    device("device-sorted-epochs", 40, lengths="sorted", low=16, high=128, epoch=90, seconds=130, epoch_steps=90),
    device("device-sorted-untold", 40, lengths="sorted", low=16, high=128, epoch=120, told=False, seconds=120, epoch_steps=120),
    device("device-long-example-fits", 96, lengths="random", low=16, high=96, outlier=(400, 320), seconds=110),
    device("device-long-example-just-fits", 50, lengths="random", low=16, high=96, outlier=(330, 256)),
    device("device-evaluations", 64, p("evaluation", examples=32, length=96, every=75), high=64, seconds=110),
    device("device-copies", 80, p("copies", every=60), lengths="random", low=16, high=96),
    device("device-moving-average", 60, p("copies", every=0, keep=True, at=200), high=80),
    device("device-cache-stops", 120, p("cache", mib=36, entries=600, per_step=4), lengths="random", low=16, high=96, seconds=110, epoch_steps=150),
    device("device-cache-fills-half", 90, p("cache", mib=40, entries=700, per_step=3), high=64, seconds=100, epoch_steps=234),
    device("device-cycles", 70, p("cycles", mib=0.4, every=60), lengths="random", low=16, high=96),
    device("device-graphs-for-a-while", 120, p("graphs", examples=1, length=64, every=3, most=60), high=64, seconds=110),
    device("device-neighbour-noisy", 96, p("neighbour", mib_per_step=0, walk_mib=24), lengths="random", low=16, high=96, seconds=110),
    device("device-neighbour-moves-in", 96, p("neighbour", mib_per_step=1.5, begin=150, until=170), high=80),
    device("device-splinters-stop", 160, p("splinters", mib=6, growth=0.02, every=7, most=40), high=64, seconds=90),
    device("device-validation-kept-thrice", 100, p("epochs", mib=9, every=90, most=3), high=80, seconds=110, epoch_steps=90),
]  # fmt: skip

DYING_DEVICE = [
    device("device-graphs-slow", 110, p("graphs", examples=1, length=48, every=2), high=64, seconds=180),
    device("device-graphs-fast", 130, p("graphs", examples=1, length=96, every=2), high=96, seconds=120),
    device("device-graphs-random", 150, p("graphs", examples=1, length=64, every=2), lengths="random", low=16, high=128, seconds=180),
    device("device-graphs-late", 120, p("graphs", examples=2, length=64, every=3, begin=250), high=80, seconds=180),
    device("device-hidden", 120, p("hidden", mib_per_step=0.16), lengths="random", low=16, high=112, seconds=180),
    device("device-hidden-untold", 110, p("hidden", mib_per_step=0.22), lengths="random", low=16, high=112, told=False, seconds=180),
    device("device-epochs", 120, p("epochs", mib=7, every=40), high=80, seconds=180, epoch_steps=40),
    device("device-epochs-sorted", 120, p("epochs", mib=6, every=45), lengths="sorted", low=16, high=128, epoch=45, seconds=180, epoch_steps=45),
    device("device-cache-endless", 130, p("cache", mib=150, entries=1000, per_step=1, bound=False), high=64, seconds=180),
    device("device-neighbour-grows", 130, p("neighbour", mib_per_step=0.17), lengths="random", low=16, high=96, seconds=180),
    device("device-neighbour-grows-late", 130, p("neighbour", mib_per_step=0.35, begin=220), high=80, seconds=180),
    device("device-leak-evaluations", 130, p("graphs", examples=1, length=48, every=2), p("evaluation", examples=24, length=96, every=70), high=64, seconds=180),
    device("device-long-example", 64, lengths="random", low=16, high=96, outlier=(430, 400), seconds=110, micro_batch=16),
    device("device-long-example-deep", 90, lengths="random", low=16, high=80, outlier=(610, 512), seconds=140, micro_batch=16),
    device("device-long-example-early", 60, lengths="random", low=16, high=96, outlier=(170, 420), seconds=60),
    device("device-long-example-close", 70, lengths="random", low=16, high=128, outlier=(380, 360), seconds=100),
    device("device-long-example-sorted", 80, lengths="sorted", low=16, high=112, outlier=(350, 448), epoch=150, seconds=100, epoch_steps=150),
    device("device-splinters", 160, p("splinters", mib=12, growth=0.03, every=30), high=64, seconds=180),
    device("device-splinters-slow", 150, p("splinters", mib=7, growth=0.03, every=7), lengths="random", low=16, high=80, seconds=180),
]  # fmt: skip

HOUR = 1500.0
LONG = [
    host("long-host-flat", 500, BASE, LOGS, p("walk", mib=12), p("spikes", mib=80, every_s=120), seconds=HOUR, step_s=0.5),
    host("long-host-cache-saw", 600, BASE, p("cache", mib=100, entries=900, per_step=1), p("cycles", mib_per_s=1.5, every_s=45), seconds=HOUR, step_s=0.5, epoch_steps=900),
    host("long-host-neighbour", 600, BASE, LOGS, p("spikes", mib=60, every_s=70), neighbour=(p("walk", mib=200),), seconds=HOUR, step_s=0.5),
    device("long-device-random", 64, p("evaluation", examples=24, length=96, every=240), lengths="random", low=16, high=128, seconds=HOUR, step_s=0.5),
    device("long-device-sorted", 64, p("copies", every=300), lengths="sorted", low=16, high=112, epoch=220, seconds=HOUR, step_s=0.5, epoch_steps=220),
    device("long-device-neighbour", 110, p("neighbour", mib_per_step=0, walk_mib=20), p("cache", mib=20, entries=800, per_step=1), high=80, seconds=HOUR, step_s=0.5, epoch_steps=800),
]  # fmt: skip
"""Healthy for nearly half an hour each: without them a rate per hour would be a guess."""

HEALTHY, DYING = (*HEALTHY_HOST, *HEALTHY_DEVICE, *LONG), (*DYING_HOST, *DYING_DEVICE)

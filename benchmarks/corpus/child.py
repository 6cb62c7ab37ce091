"""The process that trains, and its neighbour: `python -m benchmarks.corpus.child NAME [--neighbour]`."""

from __future__ import annotations

import sys

from benchmarks.corpus import host_parts
from benchmarks.corpus.loop import Loop
from benchmarks.corpus.splits import SCENARIOS


def main(name: str, *, neighbour: bool) -> None:
    """Train what the scenario says."""
    scenario = SCENARIOS[name]
    loop = Loop(name, scenario.seconds, scenario.step_s, scenario.micro_batch, scenario.epoch_steps)
    if neighbour:
        host_parts.train(loop, scenario.neighbour)
    elif scenario.on_device:
        from benchmarks.corpus import device_parts

        device_parts.train(loop, scenario.parts, capacity_mib=scenario.limit_mib, **scenario.device)
    else:
        host_parts.train(loop, scenario.parts)


if __name__ == "__main__":
    main(sys.argv[1], neighbour="--neighbour" in sys.argv)

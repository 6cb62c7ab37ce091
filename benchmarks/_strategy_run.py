"""One side of `strategies`: a short run of a config by the product's own runner, and what it took.

In this process on the simulated device; or, where host memory is the question, in a process of its own on the CPU:
`python -m benchmarks._strategy_run` takes {"keys": …, "folder": …} on its input.
"""

from __future__ import annotations

import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import benchmarks._table  # noqa: F401  # sets the environment that torch reads when it is imported
from memdash.agent.session import Session
from memdash.config import RunConfig
from memdash.config_file import parse_config
from memdash.environment import training_environment

if TYPE_CHECKING:
    from runner.loop import Loop

STEPS = 3
TIMEOUT_S = 600.0
CLEAR_PEAK = "5"
Keys = dict[str, Any]
"""`train.micro_batch` -> 8."""

BASE: dict[str, Keys] = {
    "data": {"source": "texts.txt", "max_length": 128, "validation_fraction": 0.0},
    "train": {"max_steps": STEPS, "threads": 1},
    "device": {"kind": "simulated", "capacity": "64GiB"},
    "checkpoint": {"at_end": "none"},
}


class Watching(Session):
    """Keeps the peak of the steps, and what each after the first took."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self.cpu_s: list[float] = []
        self._last_s = 0.0

    def end_step(self, **report: Any) -> bool:
        now_s = time.process_time()
        if self._last_s:
            self.cpu_s.append(now_s - self._last_s)
        assert self.read_memory is not None
        self.peak = max(self.peak, self.read_memory().peak_allocated_bytes or 0)
        self._last_s = time.process_time()
        return super().end_step(**report)


@dataclass(frozen=True)
class Side:
    """What a run took."""

    peak: int
    """Bytes of the simulated device in a step."""
    state: int
    """The same between steps: weights and optimizer."""
    checkpoint: int
    """Bytes of its checkpoints' tensors."""
    step_cpu_s: float
    """Of a usual step."""
    host_peak: int = 0
    """Bytes of host memory above those of the libraries, in a process of its own."""


def config_of(keys: Keys, folder: Path) -> RunConfig:
    """The base config with some keys changed. Raises ConfigError."""
    table = {section: dict(values) for section, values in BASE.items()}
    for key, value in keys.items():
        section, _, name = key.partition(".")
        table.setdefault(section, {})[name] = value
    return parse_config(table, base=folder)


def measure(keys: Keys, *, worst_only: bool = False, folder: Path | None = None) -> Side:
    """Train a few steps; with `worst_only` just the group that holds the longest example, and one usual group."""
    from runner.launch import prepare
    from runner.simulated import SimulatedDevice
    from runner.spec import Spec

    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        if folder is None:
            write_texts(place)
        session = Watching()
        gc.collect()
        loop: Loop = prepare(Spec(config_of(keys, folder or place), place, folder or place), session)
        device = loop._state.device
        try:
            state = device.read_memory().allocated_bytes or 0
            if worst_only:
                _train_worst(loop, session)
            else:
                loop.run()
        finally:
            if isinstance(device, SimulatedDevice):
                device.stop()
        saved = sum(file.stat().st_size for file in place.rglob("*.safetensors"))
        usual_s = session.cpu_s[:1] if worst_only else session.cpu_s
        return Side(session.peak, state, saved, sum(usual_s) / max(1, len(usual_s)))


def measure_apart(keys: Keys, folder: Path) -> Side:
    """In a process of its own, on the CPU; its host memory counts from when torch and transformers are imported."""
    keys = {"device.kind": "cpu", **keys}
    environment = {**os.environ, **training_environment(config_of(keys, folder))}
    asked = json.dumps({"keys": keys, "folder": str(folder)})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks._strategy_run"],
        input=asked, env=environment, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=True,
    )  # fmt: skip
    return Side(**json.loads(done.stdout.splitlines()[-1]))


def write_texts(folder: Path) -> None:
    """Words enough for some groups of full length, and a tokenizer that is trained in no time."""
    chance = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 8))) for _ in range(2000)]
    lines = [" ".join(chance.choices(words, k=100)) for _ in range(60)]
    (folder / "texts.txt").write_text("\n\n".join(lines))


def _train_worst(loop: Loop, session: Watching) -> None:
    groups, lengths, size = loop._groups, loop._step.lengths, loop._plan.global_batch
    every = [groups.at(0, start) for start in range(0, len(lengths) - size + 1, size)]
    every.sort(key=lambda group: max(lengths[index] for index in group))
    for group in (every[len(every) // 2], every[len(every) // 2], every[-1]):
        loop._step.train(group, 0, 1e-4, 0.0)
        split = loop._step.split
        session.end_step(
            loss=0.0,
            step_time_s=0.0,
            examples_seen=0,
            micro_batch=split.micro_batch,
            grad_accum_steps=split.grad_accum_steps,
        )


def _main() -> None:
    import transformers  # noqa: F401  # libraries are no strategy's

    import runner.launch  # noqa: F401

    asked = json.load(sys.stdin)
    out, sys.stdout = sys.stdout, sys.stderr
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    Path("/proc/self/clear_refs").write_text(CLEAR_PEAK)
    side = measure(asked["keys"], folder=Path(asked["folder"]))
    (peak,) = (int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))
    print(json.dumps({**asdict(side), "host_peak": peak * 1024 - before}), file=out)


if __name__ == "__main__":
    _main()

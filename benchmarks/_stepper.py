"""A training process under a supervisor: short slices of steps with and without what is to be measured, in turn.

`python -m benchmarks._stepper RESULTS ROUNDS`; writes what each slice cost as JSON. The machine changes from minute to
minute, slices that follow each other meet the same machine.
"""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import benchmarks._table  # noqa: F401  # sets the environment that torch reads when it is imported

import torch  # isort: skip
from torch import nn

from memdash.agent.memory import cuda_memory
from memdash.agent.session import Session
from runner.simulated import SimulatedDevice

STEP_S = (0.005, 0.05, 0.5)
SLICE_S = {0.005: 0.15, 0.05: 0.25, 0.5: 0.5}
WARM_CALLS = 3000
GIB = 1 << 30


class Work:
    """A step of about so many seconds: forward and backward of a small transformer layer, again and again."""

    def __init__(self) -> None:
        self.layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self._batch = torch.randn(16, 32, 64)
        self.unit()
        times = []
        for _ in range(20):
            began_s = time.process_time()
            self.unit()
            times.append(time.process_time() - began_s)
        self._unit_s = statistics.median(times)

    def unit(self) -> None:
        """The smallest step."""
        self.layer(self._batch).square().mean().backward()
        self.layer.zero_grad(set_to_none=True)

    def step(self, seconds: float) -> Callable[[], None]:
        """A step of about that length."""
        units = max(1, round(seconds / self._unit_s))

        def step() -> None:
            for _ in range(units):
                self.unit()

        return step


class Sides:
    """One function for each thing that is measured: takes a step and a number, returns the CPU-seconds of all threads."""

    def __init__(self) -> None:
        self.session = Session()
        self.session.start(total_steps=1_000_000, global_batch=16, micro_batch=16, model="stepper")
        self._simulated = SimulatedDevice(4 * GIB)
        self._no_device = self.session.read_memory
        self.hot_s: dict[str, list[float]] = {"host only": [], "simulated": [], "nothing": []}
        """Of every other call of end_step between two steps, when the step has filled the caches with its own.

        Of `nothing` in between: what it takes to read the clock then.
        """

    @staticmethod
    def off(step: Callable[[], None], count: int) -> float:
        """Nothing but the steps."""
        began_s = time.process_time()
        for _ in range(count):
            step()
        return time.process_time() - began_s

    def agent(self, step: Callable[[], None], count: int) -> float:
        """Each step is reported to the supervisor."""
        return self._reported(step, count, "host only")

    def simulated(self, step: Callable[[], None], count: int) -> float:
        """The same on the simulated device, whose figures are reported, too."""
        note = self._simulated.start()
        assert not note, note
        self.session.read_memory = self._simulated.read_memory
        try:
            return self._reported(step, count, "simulated")
        finally:
            self.session.read_memory = self._no_device
            self._simulated.stop()

    def psutil(self, step: Callable[[], None], count: int) -> float:
        """A thread that asks psutil for this process and the machine ten times a second."""
        import psutil

        process, over = psutil.Process(), threading.Event()

        def poll() -> None:
            most = 0
            while not over.wait(0.1):
                most = max(most, process.memory_info().rss, psutil.virtual_memory().used)

        thread = threading.Thread(target=poll)
        thread.start()
        try:
            return self.off(step, count)
        finally:
            over.set()
            thread.join()

    def tracker(self, step: Callable[[], None], count: int) -> float:
        """transformers' own, as its Trainer uses it with skip_memory_metrics=False."""
        from transformers.trainer_utils import TrainerMemoryTracker

        memory = TrainerMemoryTracker(skip_memory_metrics=False)

        def train() -> float:  # it asks for the name of its caller
            memory.start()
            spent_s = self.off(step, count)
            memory.stop("train")
            return spent_s

        return train()

    def warm_us(self, read_memory: Callable[[], Any] | None = None) -> float:
        """Of one report after another with nothing between, in the training thread."""
        self.session.read_memory = read_memory or self._no_device
        times: list[float] = []
        for _ in range(WARM_CALLS):
            self._report(0.0, times)
        self.session.read_memory = self._no_device
        return statistics.median(times) * 1e6

    def _reported(self, step: Callable[[], None], count: int, kind: str) -> float:
        began_s = time.process_time()
        for number in range(count):
            step_s = time.perf_counter()
            step()
            if number % 2 == 0 and kind == "host only":
                self._clocked(lambda: None, self.hot_s["nothing"])
            self._report(time.perf_counter() - step_s, [] if number % 2 == 0 else self.hot_s[kind])
        return time.process_time() - began_s

    def _report(self, step_time_s: float, times: list[float]) -> None:
        self._clocked(
            lambda: self.session.end_step(
                loss=1.2345, step_time_s=step_time_s, examples_seen=16, micro_batch=16, grad_accum_steps=1,
                learning_rate=1e-3, grad_norm=0.5, num_items=1000, longest=128,
            ),
            times,
        )  # fmt: skip

    @staticmethod
    def _clocked(call: Callable[[], object], times: list[float]) -> None:
        time.thread_time()  # the clock itself is cold the first time
        began_s = time.thread_time()
        call()
        times.append(time.thread_time() - began_s)


def measure(rounds: int) -> dict[str, Any]:
    """Every side in every round, in another order each time."""
    torch.set_num_threads(1)
    work, sides = Work(), Sides()
    names = ("off", "off again", "agent", "simulated", "psutil", "tracker")
    functions = (sides.off, sides.off, sides.agent, sides.simulated, sides.psutil, sides.tracker)
    turns = list(zip(names, functions, strict=True))
    for _, side in turns:
        side(work.step(0.005), 5)  # imports, connections, first calls
    slices = []
    for number in range(rounds):
        for step_s in STEP_S:
            step, count = work.step(step_s), max(1, round(SLICE_S[step_s] / step_s))
            turns = [*turns[1:], turns[0]] if number % 2 else turns[::-1]
            for name, side in turns:
                cpu_s = side(step, count)
                slices.append({"round": number, "step_s": step_s, "side": name, "steps": count, "cpu_s": cpu_s})
    sides.hot_s, in_step = {kind: [] for kind in sides.hot_s}, sides.hot_s
    simulated = SimulatedDevice(4 * GIB)
    simulated.start()
    warm = {"host only": sides.warm_us(), "simulated": sides.warm_us(simulated.read_memory)}
    simulated.stop()
    if torch.cuda.is_available():
        warm["CUDA"] = sides.warm_us(cuda_memory())
    sides.session.finish()
    return {
        "slices": slices,
        "warm_us": warm,
        "in_step_us": {kind: statistics.median(times) * 1e6 for kind, times in in_step.items()},
    }


if __name__ == "__main__":
    results = Path(sys.argv[1])
    results.with_suffix(".part").write_text(json.dumps(measure(int(sys.argv[2]))))
    results.with_suffix(".part").replace(results)

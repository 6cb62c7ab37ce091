"""GPU figures into telemetry, at most twice a second, without ever waiting for the driver. Called at the supervisor's beat."""

from __future__ import annotations

import time
from collections.abc import Mapping

from memdash import wire
from memdash.host.gpu_watch import GpuLook, GpuWatch
from memdash.supervisor.run_state import is_final
from memdash.supervisor.telemetry import Telemetry

MOST_FALLS = 3  # of one GPU that are journaled: one that comes and goes must not flood it


class Gpus:
    """Watches as long as the run may train on a GPU; `environment` is the training process's."""

    def __init__(self, telemetry: Telemetry, environment: Mapping[str, str]) -> None:
        self._telemetry = telemetry
        self._environment = environment
        self._watch: GpuWatch | None = None
        self._shown: GpuLook | None = None
        self._answers: dict[str, bool] = {}
        self._falls: dict[str, int] = {}

    def tick(self) -> None:
        """Pass on what is new."""
        state = self._telemetry.state
        if is_final(state) or not on_gpu(state):
            self.close()
            if state.gpus and not is_final(state):
                self._telemetry.gpus(wire.GpuSample(time_s=time.time(), gpus=[]))
            return
        if self._watch is None:
            self._watch = GpuWatch(self._environment)
            self._watch.start()
        self._watch.root_pid = state.pid
        look = self._watch.latest()
        if look == self._shown or not (look.gpus or look.reason):
            return
        self._shown = look
        self._telemetry.gpus(wire.GpuSample(time_s=time.time(), gpus=list(look.gpus), reason=look.reason))
        self._journal(look.gpus)

    def close(self) -> None:
        """Read no more."""
        if self._watch:
            self._watch.close()
            self._watch = self._shown = None

    def _journal(self, gpus: tuple[wire.GpuReading, ...]) -> None:
        """Write down that a GPU has stopped to answer, once, and that it answers again."""
        fallen: dict[str, list[str]] = {}
        for gpu in gpus:
            name, answers = gpu_name(gpu), gpu.kind != "unavailable"
            before, self._answers[name] = self._answers.get(name, answers), answers
            if before == answers or self._falls.get(name, 0) >= MOST_FALLS:
                continue
            if answers:
                self._telemetry.journal("good", "gpu", f"{name} answers again")
            else:
                fallen.setdefault(gpu.reason, []).append(name)
        for reason, names in fallen.items():
            self._telemetry.journal("warning", "gpu", f"{', '.join(names)}: no figures any more: {reason}")
            self._falls |= {name: self._falls.get(name, 0) + 1 for name in names}


def on_gpu(state: wire.RunState) -> bool:
    """Whether the run trains on a GPU, or has not said yet on what."""
    return not state.device.startswith(("cpu", "mps", "simulated"))


def gpu_name(gpu: wire.GpuReading) -> str:
    """`GPU 1`, `GPU 0 MIG 2`: as nvidia-smi numbers them."""
    return f"GPU {gpu.index}" if gpu.instance is None else f"GPU {gpu.index} MIG {gpu.instance}"

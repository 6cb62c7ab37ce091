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
        self._news = GpuNews()

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
        for level, text in self._news.take(look):
            self._telemetry.journal(level, "gpu", text)

    def close(self) -> None:
        """Read no more."""
        if self._watch:
            self._watch.close()
            self._watch = self._shown = None


class GpuNews:
    """What is worth a line of the journal: a GPU that has stopped to answer, once, and that it answers again (pure)."""

    def __init__(self) -> None:
        self._answers: dict[str, bool] = {}
        self._falls: dict[str, int] = {}

    def take(self, look: GpuLook) -> list[tuple[wire.Level, str]]:
        """The news in one more look; GPUs that fell for the same reason share a line."""
        gone = look.reason or "the driver does not list it any more"
        now = dict.fromkeys(self._answers, (False, gone))
        now |= {gpu_name(gpu): (gpu.kind != "unavailable", gpu.reason) for gpu in look.gpus}
        fallen: dict[str, list[str]] = {}
        risen: list[str] = []
        for name, (answers, reason) in now.items():
            before, self._answers[name] = self._answers.get(name, answers), answers
            if before == answers:
                continue
            falls = self._falls[name] = self._falls.get(name, 0) + (not answers)
            if 0 < falls <= MOST_FALLS:
                (risen if answers else fallen.setdefault(reason, [])).append(name)
        news: list[tuple[wire.Level, str]] = [
            ("warning", f"{', '.join(names)}: no figures any more: {reason}") for reason, names in fallen.items()
        ]
        return [*news, ("good", f"{', '.join(risen)}: figures again")] if risen else news


def on_gpu(state: wire.RunState) -> bool:
    """Whether the run trains on a GPU, or has not said yet on what."""
    return not state.device.startswith(("cpu", "mps", "simulated"))


def gpu_name(gpu: wire.GpuReading) -> str:
    """`GPU 1`, `GPU 0 MIG 2`: as nvidia-smi numbers them."""
    return f"GPU {gpu.index}" if gpu.instance is None else f"GPU {gpu.index} MIG {gpu.instance}"

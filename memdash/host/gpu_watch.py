"""Reads the GPUs in a thread of its own: a call into the driver may hang for seconds or for ever, and then only it waits.

The thread is a daemon and is never joined: whoever watches takes the latest reading, and one that has grown old is shown as n/a.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from memdash.host.nvml import Nvml
from memdash.host.process_tree import descendants
from memdash.wire import GpuReading

PERIOD_S = 0.5
SLOWEST_PERIOD_S = 2.0
BURDEN = 20.0  # a slow driver is left in peace for so many times what a reading took
PROCESSES_EVERY_S = 5.0
RETRY_S = 60.0  # for a GPU that was lost, or a driver that does not start
STALE_S = 5.0
NO_ANSWER = f"the NVIDIA driver has not answered for more than {STALE_S:.0f} s"


@dataclass(frozen=True)
class GpuLook:
    """All GPUs at one moment."""

    at_s: float
    """By the monotonic clock."""
    gpus: tuple[GpuReading, ...] = ()
    reason: str = ""
    """Why there is none."""
    final: bool = False
    """Whether no other will follow: there is no driver."""


class GpuWatch:
    """Follows the GPUs that a training process with `environment` may use."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.root_pid: int | None = None
        """Whose process tree is ours; set by whoever starts and ends it."""
        self._environment = environment
        self._latest = GpuLook(time.monotonic(), reason="")
        self._closing = threading.Event()
        self._news = threading.Event()

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._run, name="nvml", daemon=True).start()

    def latest(self) -> GpuLook:
        """The newest reading; its figures are n/a when it is old. Never waits."""
        return aged(self._latest, time.monotonic())

    def wait(self, timeout_s: float) -> GpuLook:
        """The first reading, or what there is when the time is over."""
        self._news.wait(timeout_s)
        return self.latest()

    def close(self) -> None:
        """Read no more; a call that hangs is left to hang."""
        self._closing.set()

    def _run(self) -> None:
        nvml, started = Nvml(self._environment), False
        listed_s = looked_s = time.monotonic() - RETRY_S
        while not self._closing.is_set():
            began_s = time.monotonic()
            try:
                if not started or (nvml.impaired and began_s - looked_s >= RETRY_S):
                    looked_s = began_s
                    reason = nvml.look() if started else nvml.start()
                    started = not reason
                if started and began_s - listed_s >= PROCESSES_EVERY_S:
                    listed_s = began_s
                    nvml.list_processes(descendants(self.root_pid) if self.root_pid else set())
                gpus = tuple(nvml.read()) if started else ()
            except Exception as error:  # whatever a driver can do to us, the figures of the host go on
                started, gpus, reason = False, (), f"a fault in reading the GPUs: {type(error).__name__}: {error}"
            self._publish(GpuLook(time.monotonic(), gpus, reason, nvml.absent))
            if nvml.absent:
                return
            self._closing.wait(pause_s(time.monotonic() - began_s) if started else RETRY_S)

    def _publish(self, look: GpuLook) -> None:
        self._latest = look
        self._news.set()


def pause_s(took_s: float) -> float:
    """How long to leave the driver in peace after a reading that took so long."""
    return min(SLOWEST_PERIOD_S, max(PERIOD_S, BURDEN * took_s))


def aged(look: GpuLook, now_s: float) -> GpuLook:
    """The look as it may be shown now: without figures that nobody has confirmed for STALE_S."""
    if look.final or now_s - look.at_s <= STALE_S or (look.reason and not look.gpus):
        return look
    stale = tuple(_unknown(gpu) for gpu in look.gpus)
    return GpuLook(look.at_s, stale, "" if stale else NO_ANSWER)


def _unknown(gpu: GpuReading) -> GpuReading:
    """What stays true of a GPU that does not answer."""
    return GpuReading(
        index=gpu.index,
        instance=gpu.instance,
        cuda_index=gpu.cuda_index,
        uuid=gpu.uuid,
        name=gpu.name,
        kind="unavailable",
        reason=NO_ANSWER,
    )

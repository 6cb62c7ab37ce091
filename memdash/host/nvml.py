"""GPUs as NVIDIA's driver sees them: the memory of all who use them, utilisation, temperature, power.

A figure that cannot be had is None with a reason. Any call may hang, so all are made from one thread: see gpu_watch.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memdash.host.gpu_figures import Figures, Processes, memory_figures, other_figures, process_bytes, summed
from memdash.host.gpu_processes import NOT_TO_BE_MATCHED, process_name, whose
from memdash.host.nvml_calls import ANOTHER_WAY, TOO_SHORT, Answer, GpuLostError, NvmlCalls
from memdash.host.visible_gpus import Gpu, Visible, visible_gpus
from memdash.wire import GpuReading

MAX_GPUS = 64
PROCESS_KINDS = ("Compute", "Graphics", "MPSCompute")
LIST_TRIES = 3  # a list may grow between the question for its length and the one for its content


@dataclass
class Device:
    """A GPU or an instance of one, and how the driver is asked about it."""

    gpu: Gpu
    handle: Any = None
    whole: Any = None
    """The handle of the card, which alone knows temperature and power."""
    fault: str = ""
    """Why it is not asked any more."""
    processes: Processes = Processes()
    """As listed last."""


class Nvml:
    """The GPUs that a training process with this environment may use."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._calls = NvmlCalls()
        self._devices: list[Device] = []
        self._visible = Visible(())

    @property
    def absent(self) -> bool:
        """Whether there is no driver on this machine, now or later."""
        return self._calls.absent

    @property
    def impaired(self) -> bool:
        """Whether some GPU is not asked any more; `look` may find it again."""
        return any(device.fault for device in self._devices)

    def start(self) -> str:
        """Load the driver's library and look for GPUs; why there are none, empty when there are."""
        return self._calls.start() or self.look()

    def look(self) -> str:
        """Find the GPUs, for the first time or after one was lost; why there are none, empty when there are."""
        count, why = self._calls.ask("nvmlDeviceGetCount")
        if count is None:
            return f"the NVIDIA driver does not say how many GPUs there are: {why}"
        before = {(device.gpu.index, device.gpu.instance): device for device in self._devices}
        found = [device for index in range(min(count, MAX_GPUS)) for device in self._open(index, before)][:MAX_GPUS]
        self._visible = visible_gpus(
            [device.gpu for device in found],
            self._environment.get("CUDA_VISIBLE_DEVICES"),
            self._environment.get("CUDA_DEVICE_ORDER"),
        )
        devices = {device.gpu: device for device in found}
        self._devices = [devices[gpu] for gpu in self._visible.gpus]
        return "" if self._devices else self._visible.reason

    def read(self) -> list[GpuReading]:
        """Every GPU of this run, with the processes that were listed last."""
        return [self._read(place, device) for place, device in enumerate(self._devices)]

    def list_processes(self, tree: set[int]) -> None:
        """See who uses each GPU; `tree` are the processes of this run. It holds a lock of the driver for milliseconds."""
        for device in self._devices:
            try:
                device.processes = Processes() if device.fault else self._list(device.handle, tree)
            except GpuLostError as error:
                device.fault = str(error)

    # ---- looking ----

    def _open(self, index: int, before: Mapping[tuple[int, int | None], Device]) -> list[Device]:
        """A GPU, or the instances that it is cut up into."""
        calls = self._calls
        known = before.get((index, None), Device(Gpu(index)))
        try:
            handle, why = calls.ask("nvmlDeviceGetHandleByIndex", index)
            if handle is None:
                return [Device(known.gpu, fault=why)]
            gpu = Gpu(index, calls.text("nvmlDeviceGetUUID", handle), calls.text("nvmlDeviceGetName", handle))
            modes, _ = calls.ask("nvmlDeviceGetMigMode", handle)
            if modes and modes[0] == calls.api.NVML_DEVICE_MIG_ENABLE:
                return self._open_instances(gpu, handle)
        except GpuLostError as error:
            return [Device(known.gpu, fault=str(error))]
        return [Device(gpu, handle, handle, processes=known.processes)]

    def _open_instances(self, whole: Gpu, handle: Any) -> list[Device]:
        calls, found = self._calls, []
        count, _ = calls.ask("nvmlDeviceGetMaxMigDeviceCount", handle)
        for instance in range(min(count or 0, MAX_GPUS)):
            part, _ = calls.ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, instance)
            if part is None:  # this place is free
                continue
            name = calls.text("nvmlDeviceGetName", part) or f"{whole.name} MIG"
            mine, _ = calls.ask("nvmlDeviceGetGpuInstanceId", part)
            compute, _ = calls.ask("nvmlDeviceGetComputeInstanceId", part)
            ids = None if mine is None or compute is None else (mine, compute)
            gpu = Gpu(whole.index, calls.text("nvmlDeviceGetUUID", part), name, instance, whole.uuid, ids)
            found.append(Device(gpu, part, handle))
        return found

    # ---- reading ----

    def _read(self, place: int, device: Device) -> GpuReading:
        figures: Figures = {}
        reasons: list[str] = []
        if not device.fault:
            try:
                figures, reasons = self._figures(device)
            except GpuLostError as error:
                device.fault = str(error)
        processes = Processes() if device.fault else device.processes
        reasons = [device.fault or "; ".join(filter(None, (*reasons, processes.reason)))]
        if not self._visible.numbered:
            reasons.append(self._visible.reason)
        return GpuReading(
            index=device.gpu.index,
            instance=device.gpu.instance,
            cuda_index=place if self._visible.numbered else None,
            uuid=device.gpu.uuid,
            name=device.gpu.name,
            kind="unavailable" if figures.get("total_bytes") is None else "exact",
            own_bytes=processes.own_bytes,
            others_bytes=processes.others_bytes,
            processes=list(processes.largest),
            num_processes=processes.count,
            reason="; ".join(filter(None, reasons)),
            **figures,  # type: ignore[arg-type]
        )

    def _figures(self, device: Device) -> tuple[Figures, list[str]]:
        """Of a device that answers. Raises GpuLostError."""
        calls, api = self._calls, self._calls.api
        name = "nvmlDeviceGetMemoryInfo"
        memory, why = calls.first((name, device.handle, api.nvmlMemory_v2), (name, device.handle))
        if memory is None and why not in ANOTHER_WAY:
            raise GpuLostError(f"memory: {why}")
        figures: Figures = {}
        reasons = [f"memory: {why}"]
        if memory is not None:
            reserved = getattr(memory, "reserved", None)  # older drivers count it as used
            figures, reasons = memory_figures(memory.total, memory.used, memory.free, reserved)
        rates, why = calls.ask("nvmlDeviceGetUtilizationRates", device.handle)
        heat = calls.first(
            ("nvmlDeviceGetTemperatureV", device.whole, api.NVML_TEMPERATURE_GPU),
            ("nvmlDeviceGetTemperature", device.whole, api.NVML_TEMPERATURE_GPU),
        )
        power = calls.ask("nvmlDeviceGetPowerUsage", device.whole)
        others, more_reasons = other_figures((None if rates is None else rates.gpu, why), heat, power)
        return figures | others, reasons + more_reasons

    def _list(self, handle: Any, tree: set[int]) -> Processes:
        """The processes of all kinds; of graphics and MPS many drivers say nothing. Raises GpuLostError."""
        (computing, why), *more = (self._list_kind(handle, kind) for kind in PROCESS_KINDS)
        if computing is None:
            return Processes(reason=f"processes: {why}")
        used: dict[int, int | None] = {}
        for process in (process for found in (computing, *(answer[0] for answer in more)) for process in found or ()):
            held = process_bytes(process.usedGpuMemory)
            known = used.get(process.pid)
            used[process.pid] = held if known is None else max(known, held or 0)  # one that draws too is listed twice
        ours = whose(used, tree)
        listed = summed(used, ours, process_name)
        if None in ours.values():
            return Processes(listed.largest, listed.count, reason=f"processes: {NOT_TO_BE_MATCHED}")
        return listed

    def _list_kind(self, handle: Any, kind: str) -> Answer:
        calls = [(f"nvmlDeviceGet{kind}RunningProcesses{version}", handle) for version in ("_v3", "_v2")]
        for _ in range(LIST_TRIES):
            answer = self._calls.first(*calls)
            if answer[1] != TOO_SHORT:
                break
        return answer

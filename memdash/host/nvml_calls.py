"""Calls into NVIDIA's driver that may fail: each gives an answer or the reason, in words for a person, why there is none."""

from __future__ import annotations

import ctypes
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
TOO_OLD = "this driver does not know the call"
NOT_SUPPORTED = "not supported by this GPU"
REFUSED = "the driver refuses the call"
TOO_SHORT = "the list grows faster than it can be read"
ANOTHER_WAY = (TOO_OLD, NOT_SUPPORTED, REFUSED)
"""Reasons to try an older call of the same meaning."""

Answer = tuple[Any, str]
"""What was asked for and no words, or None and why."""


class GpuLostError(Exception):
    """A GPU that does not answer any more: asking on costs seconds and brings nothing."""


class NvmlCalls:
    """pynvml, as soon as `start` has found a driver to ask."""

    def __init__(self) -> None:
        self.api: Any = None
        """The pynvml module: its constants."""
        self.absent = False
        """Whether there is no driver on this machine, now or later."""

    def start(self) -> str:
        """Load and initialise; why that cannot be done, empty when it is."""
        try:
            ctypes.CDLL(LIBRARY)  # before pynvml, which takes 4 MB and 15 ms for nothing where there is no driver
        except OSError as error:
            self.absent = True
            return "no NVIDIA driver" if "No such file" in str(error) else f"no NVIDIA driver: {error}"
        import pynvml

        self.api = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            return self._why_not_started(error)
        return ""

    def ask(self, name: str, *arguments: Any) -> Answer:
        """One call of pynvml. Raises GpuLostError."""
        try:
            return getattr(self.api, name)(*arguments), ""
        except self.api.NVMLError as error:
            if error.value in (self.api.NVML_ERROR_GPU_IS_LOST, self.api.NVML_ERROR_RESET_REQUIRED):
                raise GpuLostError(f"the driver has lost this GPU ({error})") from None
            return None, self._why(error)
        except (ValueError, MemoryError) as error:  # text that is none, a count that cannot be
            return None, f"the driver's answer makes no sense: {error}"

    def first(self, *calls: tuple[Any, ...]) -> Answer:
        """The first of several ways to ask that this driver knows. Raises GpuLostError."""
        answer: Answer = (None, TOO_OLD)
        for name, *arguments in calls:
            answer = self.ask(name, *arguments)
            if answer[0] is not None or answer[1] not in ANOTHER_WAY:
                break
        return answer

    def text(self, name: str, *arguments: Any) -> str:
        """A name or a UUID; empty when there is none. Raises GpuLostError."""
        return str(self.ask(name, *arguments)[0] or "")

    def _why(self, error: Any) -> str:
        api = self.api
        known = {
            api.NVML_ERROR_FUNCTION_NOT_FOUND: TOO_OLD,
            api.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: TOO_OLD,
            api.NVML_ERROR_NOT_SUPPORTED: NOT_SUPPORTED,
            api.NVML_ERROR_INVALID_ARGUMENT: REFUSED,
            api.NVML_ERROR_INSUFFICIENT_SIZE: TOO_SHORT,
            api.NVML_ERROR_NO_PERMISSION: "this user may not ask for it",
        }
        return str(known.get(error.value) or error)

    def _why_not_started(self, error: Any) -> str:
        api = self.api
        known = {
            api.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is installed but not loaded",
            api.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver and its library are of different versions, "
            "as after an update: reboot",
            api.NVML_ERROR_NO_PERMISSION: "this user may not use the NVIDIA driver: see the rights of /dev/nvidia*",
            api.NVML_ERROR_FUNCTION_NOT_FOUND: "the NVIDIA driver is too old to be asked",
        }
        return str(known.get(error.value) or f"the NVIDIA driver cannot be asked: {error}")

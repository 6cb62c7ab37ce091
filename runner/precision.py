"""Mixed precision: autocast for forwards, and in fp16 a scaled loss whose overflows skip a step instead of ruining it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from runner.device import CpuDevice, Device

if TYPE_CHECKING:
    from torch.optim import Optimizer

Name = Literal["fp32", "fp16", "bf16"]
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Precision:
    """How forwards are computed; weights, gradients and the optimizer stay as they are."""

    def __init__(self, name: Name = "fp32", device: Device | None = None) -> None:
        device = device or CpuDevice()
        self.num_skipped = 0
        """Steps of the run whose gradients overflowed in fp16: their examples are used up, the weights unchanged."""
        self._dtype = DTYPES.get(name)
        self._type = device.torch_type
        self._scaler: torch.amp.GradScaler | None = None
        if name == "fp16":
            self._scaler = torch.amp.GradScaler(self._type)
            with device.host():
                # It makes its two tensors at the first loss, where running out of memory would leave it with one.
                self._scaler.scale(torch.zeros((), device=self._type))

    @property
    def loss_scale(self) -> float:
        """What losses are multiplied by."""
        return float(self._scaler.get_scale()) if self._scaler else 1.0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The scope of one forward."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._type, self._dtype)

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to go backward from."""
        return self._scaler.scale(loss) if self._scaler else loss

    def unscale(self, optimizer: Optimizer) -> None:
        """Gradients as they would be without the scale; once a group, after its last backward."""
        if self._scaler:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> bool:
        """Update unless a gradient overflowed; whether it did. The scale follows."""
        if self._scaler is None:
            optimizer.step()
            return True
        before = self.loss_scale
        self._scaler.step(optimizer)
        self._scaler.update()
        updated = self.loss_scale >= before
        self.num_skipped += not updated
        return updated

    def rewind(self) -> None:
        """Forget a group that is going to be done again: an optimizer is unscaled only once between two updates.

        The scale itself changes with nothing but `step`.
        """
        if self._scaler:
            self._scaler._per_optimizer_states.clear()

    def save(self) -> dict[str, Any]:
        """For a full checkpoint, as JSON."""
        return {"num_skipped": self.num_skipped, "scaler": self._scaler.state_dict() if self._scaler else {}}

    def load(self, saved: dict[str, Any]) -> None:
        """What `save` gave; a run that was not fp16 before starts with the usual scale."""
        self.num_skipped = saved.get("num_skipped", 0)
        if self._scaler and saved.get("scaler"):
            self._scaler.load_state_dict(saved["scaler"])

"""AdamW with moments of one byte each, by bitsandbytes where it is installed: its state made early, and all of it plain tensors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from memdash.errors import UsageError
from runner.oom import judge

if TYPE_CHECKING:
    from torch.optim import Optimizer

SMALLEST = 4096  # elements; smaller parameters keep moments of four bytes, as bitsandbytes has it
BLOCK = 256  # elements that share a scale
HERE = 'train.optimizer = "adamw8bit"'
INSTALL = "pip install 'memdash[8bit]'"


def make_adamw8bit(groups: list[dict[str, Any]], learning_rate: float) -> Optimizer:
    """Its state is zero, and there. Raises UsageError where bitsandbytes is missing or cannot do it on this device."""
    library = _import()
    with unset_fake_temporarily():  # a plan's fake tensors have no values to make the table of codes from
        optimizer = _counting(library.optim.AdamW8bit)(groups, lr=learning_rate)
    _try_once(library, groups[0]["params"][0].device)
    for place, group in enumerate(optimizer.param_groups):
        for number, parameter in enumerate(group["params"]):
            optimizer.init_state(group, parameter, place, number)
            optimizer.state[parameter]["step"] = torch.zeros((), dtype=torch.int64, device="cpu")
    made: Optimizer = optimizer
    return made


def state_of(parameter: Tensor) -> dict[str, Tensor]:
    """One parameter's, without the two tables of codes that all have in common."""
    step = torch.zeros((), dtype=torch.int64, device="cpu")
    if parameter.numel() < SMALLEST:
        return {"step": step, "state1": torch.zeros_like(parameter), "state2": torch.zeros_like(parameter)}
    codes = [torch.zeros_like(parameter, dtype=torch.uint8) for _ in range(2)]
    scales = [parameter.new_zeros(-(-parameter.numel() // BLOCK)) for _ in range(2)]
    return {"step": step, "state1": codes[0], "state2": codes[1], "absmax1": scales[0], "absmax2": scales[1]}


def _import() -> Any:
    logger = logging.getLogger("bitsandbytes")
    before = logger.level
    logger.setLevel(logging.ERROR)  # it warns of kernels for other things than optimizers
    try:
        import bitsandbytes
    except ImportError as error:
        raise UsageError(f"{HERE}: bitsandbytes cannot be imported here: {error}", hint=INSTALL) from None
    finally:
        logger.setLevel(before)
    return bitsandbytes


def _counting(adamw8bit: Any) -> Any:
    """The same, counting steps in a tensor: a checkpoint holds one, and who wrote to it since can be told."""

    class Counting(adamw8bit):  # type: ignore[misc]
        def update_step(self, group: dict[str, Any], p: Tensor, gindex: int, pindex: int) -> None:
            """Counted before the update begins, so that a torn one is seen."""
            entry = self.state[p]
            steps = entry["step"]
            steps += 1
            entry["step"] = int(steps) - 1
            try:
                super().update_step(group, p, gindex, pindex)
            finally:
                entry["step"] = steps

    return Counting


def _try_once(library: Any, device: torch.device) -> None:
    """One update of a parameter of its own: what this build cannot do is told before the first step."""
    parameter = nn.Parameter(torch.zeros(SMALLEST, device=device))
    parameter.grad = torch.ones_like(parameter)
    try:
        with unset_fake_temporarily():
            optimizer = library.optim.AdamW8bit([parameter])
        optimizer.step()
    except Exception as error:
        if judge(error) != "other":
            raise
        version = getattr(library, "__version__", "?")
        what = f"{HERE}: bitsandbytes {version} cannot update parameters on {device.type}: {error}"
        raise UsageError(what, hint=f"another build or version may: {INSTALL}; see `python -m bitsandbytes`") from error

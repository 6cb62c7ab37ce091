"""Which of the machine's GPUs CUDA_VISIBLE_DEVICES leaves to a run, and how CUDA numbers them (pure).

CUDA counts the fastest GPU first unless CUDA_DEVICE_ORDER says PCI_BUS_ID; NVML always goes by the PCI bus. Where a number
can mean one GPU or another, all of them are named and none of them gets a `cuda:N`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """What identifies a GPU, or an instance of one that is cut up by MIG."""

    index: int
    uuid: str = ""
    name: str = ""
    instance: int | None = None
    """Number of the MIG instance; None for a whole GPU."""
    whole_uuid: str = ""
    """For an instance: of the GPU that it is a part of."""
    mig_ids: tuple[int, int] | None = None
    """For an instance: GPU instance and compute instance, as in `MIG-GPU-.../1/0`."""


@dataclass(frozen=True)
class Visible:
    """The GPUs in CUDA's order."""

    gpus: tuple[Gpu, ...]
    numbered: bool = True
    """Whether the first is `cuda:0`, the second `cuda:1` ... for sure."""
    reason: str = ""
    """Why there is none, or why the numbers are not sure."""


def visible_gpus(gpus: Sequence[Gpu], setting: str | None, order: str | None = None) -> Visible:
    """What the two variables (None = not set) leave of `gpus`, which come in NVML's order."""
    if not gpus:
        return Visible((), reason="the NVIDIA driver knows no GPU")
    models = {gpu.name.partition(" MIG ")[0] for gpu in gpus if gpu.name}
    by_bus = order == "PCI_BUS_ID" or len(models) <= 1
    if setting is None:
        return _numbered(gpus, by_bus)
    if not setting.strip():
        return Visible((), reason="CUDA_VISIBLE_DEVICES is empty: this run sees no GPU")
    chosen: list[Gpu] = []
    sure, rest = True, ""
    for entry in (part.strip() for part in setting.split(",")):
        meant = _meant(gpus, entry)
        if not meant:
            rest = f"`{entry}` in CUDA_VISIBLE_DEVICES is no GPU here: CUDA leaves it out, and all after it"
            break
        if any(gpu in chosen for gpu in meant):
            return Visible((), reason=f"CUDA_VISIBLE_DEVICES={setting} names a GPU twice: CUDA shows none")
        sure = sure and len(meant) == 1 and (by_bus or not entry[:1].isdigit())
        chosen += meant
    if sure or not chosen:
        return Visible(tuple(chosen), reason=rest)
    if not by_bus and any(part.strip()[:1].isdigit() for part in setting.split(",")):
        return _numbered(gpus, by_bus)
    return Visible(tuple(chosen), numbered=False, reason=_WHICH_INSTANCE)


def _numbered(gpus: Sequence[Gpu], by_bus: bool) -> Visible:
    """All of them."""
    if not by_bus:
        return Visible(tuple(gpus), numbered=False, reason=_WHICH_ORDER)
    if len(gpus) > 1 and any(gpu.instance is not None for gpu in gpus):
        return Visible(tuple(gpus), numbered=False, reason=_WHICH_INSTANCE)
    return Visible(tuple(gpus))


def _meant(gpus: Sequence[Gpu], entry: str) -> list[Gpu]:
    """A GPU, the instances of one that is cut up, or nothing."""
    if entry.startswith("MIG-GPU-"):
        uuid, *ids = entry.removeprefix("MIG-").split("/")
        return [gpu for gpu in gpus if gpu.whole_uuid == uuid and ids == [str(part) for part in gpu.mig_ids or ()]]
    if entry.startswith("MIG-"):
        return _only([gpu for gpu in gpus if gpu.uuid.startswith(entry)])
    if entry.startswith("GPU-"):
        whole = {gpu.whole_uuid or gpu.uuid for gpu in gpus if (gpu.whole_uuid or gpu.uuid).startswith(entry)}
        return [gpu for gpu in gpus if (gpu.whole_uuid or gpu.uuid) in whole] if len(whole) == 1 else []
    number = re.match(r"\d+", entry)  # as CUDA reads it: `1x` is 1, `-1` and `NoDevFiles` are nothing
    return [gpu for gpu in gpus if number and gpu.index == int(number[0])]


def _only(found: list[Gpu]) -> list[Gpu]:
    """A prefix that fits two of them names neither."""
    return found if len(found) == 1 else []


_WHICH_ORDER = "CUDA numbers unlike GPUs by speed, the driver by bus: CUDA_DEVICE_ORDER=PCI_BUS_ID makes them agree"
_WHICH_INSTANCE = "CUDA takes one MIG instance: name it in CUDA_VISIBLE_DEVICES to see which"

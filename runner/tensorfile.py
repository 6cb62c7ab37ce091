"""Tensors on disk in the safetensors format, written one tensor at a time.

`safetensors.torch.save_file` holds host copies of all tensors of a device before it writes the first; this writer holds one.
Reading is left to safetensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from runner.device import HostScope

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL", torch.complex64: "C64",
}  # fmt: skip
CHUNK_BYTES = 8 << 20


def unique_tensors(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tied tensors once, under their first name, and the other names as `alias -> first name`."""
    first: dict[tuple[Any, ...], str] = {}
    unique, aliases = {}, {}
    for name, tensor in tensors.items():
        place = (tensor.untyped_storage()._cdata, tensor.storage_offset())  # a fake tensor has no address
        key = (*place, tensor.dtype, tensor.shape, tensor.stride(), str(tensor.device))
        if tensor.numel() and key in first:
            aliases[name] = first[key]
        else:
            first[key] = name
            unique[name] = tensor
    return unique, aliases


def size_bytes(tensors: Mapping[str, Tensor], cast: torch.dtype | None = None) -> int:
    """What they take on disk, but for a small header."""
    unique, _ = unique_tensors(tensors)
    return sum(tensor.numel() * _on_disk(tensor, cast).itemsize for tensor in unique.values())


def write_tensors(
    write: Callable[[Any], Any], tensors: Mapping[str, Tensor], host: HostScope, cast: torch.dtype | None = None
) -> None:
    """Write a whole file through `write`; tied tensors once, their other names in the metadata.

    Floating-point tensors are cast to `cast`, a piece at a time.
    """
    unique, aliases = unique_tensors(tensors)
    dtypes = {name: _on_disk(tensor, cast) for name, tensor in unique.items()}
    # Aligned for mmap: larger types first, as safetensors itself lays them out.
    names = sorted(unique, key=lambda name: (-dtypes[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} | ({"aliases": json.dumps(aliases)} if aliases else {})}
    offset = 0
    for name in names:
        end = offset + unique[name].numel() * dtypes[name].itemsize
        shape = list(unique[name].shape)
        header[name] = {"dtype": DTYPES[dtypes[name]], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    write(struct.pack("<Q", len(text)))
    write(text)
    with host():
        # Two are enough: a writer may look at the piece before this one, never further back. New ones for every piece
        # would leave the heap several times as large as it need be.
        buffers = [torch.empty(CHUNK_BYTES, dtype=torch.uint8) for _ in range(2 if cast else 0)]
    for name in names:
        _write_tensor(write, unique[name], host, dtypes[name], buffers)


def _on_disk(tensor: Tensor, cast: torch.dtype | None) -> torch.dtype:
    return cast if cast is not None and tensor.is_floating_point() else tensor.dtype


def _write_tensor(
    write: Callable[[Any], Any], tensor: Tensor, host: HostScope, dtype: torch.dtype, buffers: list[Tensor]
) -> None:
    if not tensor.numel():
        return
    with host():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        for piece in flat.split(CHUNK_BYTES // max(tensor.element_size(), dtype.itemsize)):  # type: ignore[no-untyped-call]
            if dtype != piece.dtype:
                buffers.reverse()
                piece = buffers[0].view(dtype)[: piece.numel()].copy_(piece)
            write(piece.view(torch.uint8).numpy().data)

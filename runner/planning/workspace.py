"""What torch's LSTM keeps on a CPU for its backward, which its fake kernel does not tell: learnt from two small real ones.

It grows with batch and timesteps, but for the page that each of its parts is rounded up to: 0.1 % of 10 MiB.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily

LAYER = torch.ops.aten.mkldnn_rnn_layer.default
PLACE = 3  # of the workspace among the results
BATCH, TIMESTEPS = 8, 128  # of the real ones: so large that pages hardly count, so small that they cost nothing


def with_workspace(operation: Any, arguments: Sequence[Any], results: Any) -> Any:
    """The results, the workspace as large as a real one would be; those of any other operation as they are."""
    if operation is not LAYER or not isinstance(results[PLACE], FakeTensor):
        return results
    inputs, weights, rest = arguments[0], arguments[1:5], arguments[7:]
    shapes = tuple(tuple(weight.shape) for weight in weights)
    timesteps, batch, _ = inputs.shape
    settings = tuple(tuple(value) if isinstance(value, list) else value for value in rest)
    size = batch * timesteps * _bytes_per_step(shapes, inputs.dtype, settings)
    return (*results[:PLACE], inputs.new_empty(size, dtype=torch.uint8))


@lru_cache(maxsize=64)
def _bytes_per_step(shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, settings: tuple[Any, ...]) -> int:
    """Of one example and timestep."""

    def workspace(timesteps: int) -> int:
        inputs = torch.zeros(timesteps, BATCH, shapes[0][1], dtype=dtype)
        weights = [torch.zeros(shape, dtype=dtype) for shape in shapes]
        states = [torch.zeros(BATCH, shapes[1][1], dtype=dtype) for _ in range(2)]
        made: Tensor = LAYER(inputs, *weights, *states, *settings)[PLACE]
        return made.nbytes

    with unset_fake_temporarily():
        return round((workspace(2 * TIMESTEPS) - workspace(TIMESTEPS)) / (BATCH * TIMESTEPS))

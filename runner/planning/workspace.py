"""What torch's LSTM takes on a CPU and its fake kernels do not tell: learnt from real ones, two small of each kind.

Its forward keeps a workspace for its backward, and either pass takes scratch memory while it computes, which torch's
profiler sees. Both are a fixed part and one that grows with batch and timesteps, but for the page that each part is rounded to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.profiler import ProfilerActivity, profile

FORWARD = torch.ops.aten.mkldnn_rnn_layer.default
BACKWARD = torch.ops.aten.mkldnn_rnn_layer_backward.default
PLACE = 3  # of the workspace among the results
GRADIENTS = slice(10, 13)  # of the outputs and the two last states, among the backward's arguments
BATCH, TIMESTEPS = 8, 128  # of the real ones: so large that pages hardly count, so small that they cost nothing
LOG_LEVEL = "KINETO_LOG_LEVEL"  # the profiler's own, of what it says about itself on stderr
SILENT = "99"


class Layer(NamedTuple):
    """One direction of one layer: all that its memory follows from but batch and timesteps."""

    weights: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    reverse: bool
    mode: int
    hidden_size: int
    num_layers: int
    has_biases: bool
    bidirectional: bool
    batch_first: bool

    @classmethod
    def of(cls, operation: Any, arguments: Sequence[Any]) -> Layer:
        """From the arguments of either pass."""
        shapes = tuple(tuple(weight.shape) for weight in arguments[1:5])
        if operation is FORWARD:
            reverse, _, mode, hidden, layers, has_biases, bidirectional, batch_first, _ = arguments[7:]
        else:
            reverse, mode, hidden, layers, has_biases, _, bidirectional, _, batch_first, _ = arguments[13:]
        return cls(shapes, arguments[0].dtype, reverse, mode, hidden, layers, has_biases, bidirectional, batch_first)


class Taken(NamedTuple):
    """Bytes of one kind."""

    fixed: int
    per_step: int
    """Of one example and timestep."""


class Needs(NamedTuple):
    """What a layer takes beside its results."""

    workspace: Taken
    """From the forward to the backward."""
    forward: Taken
    """While it computes."""
    backward: Taken


def with_workspace(operation: Any, arguments: Sequence[Any], results: Any) -> Any:
    """The results, the workspace as large as a real one's growing part; those of any other operation as they are."""
    if operation is not FORWARD or not isinstance(results[PLACE], FakeTensor):
        return results
    timesteps, batch, _ = arguments[0].shape
    size = batch * timesteps * needs(Layer.of(operation, arguments)).workspace.per_step
    return (*results[:PLACE], arguments[0].new_empty(size, dtype=torch.uint8))


def fixed_workspace(operation: Any, arguments: Sequence[Any]) -> int:
    """Bytes that the workspace among the results has besides; 0 where there is none."""
    if operation is not FORWARD or not isinstance(arguments[0], FakeTensor):
        return 0
    return needs(Layer.of(operation, arguments)).workspace.fixed


def taken_inside(operation: Any, arguments: Sequence[Any]) -> tuple[int, ...]:
    """Sizes in bytes of what lives only within this operation; each is a multiple of its batch, its timesteps, or neither."""
    if operation not in (FORWARD, BACKWARD) or not isinstance(arguments[0], FakeTensor):
        return ()
    timesteps, batch, _ = arguments[0].shape
    learnt = needs(Layer.of(operation, arguments))
    taken = learnt.forward if operation is FORWARD else learnt.backward
    sizes = (taken.fixed, batch * timesteps * taken.per_step, *(_copies(arguments) if operation is BACKWARD else ()))
    return tuple(size for size in sizes if size)


def _copies(arguments: Sequence[Any]) -> list[int]:
    """Of gradients: a whole one in place of one that is not contiguous, and zeros of a state in place of one that is missing."""
    state: Tensor = arguments[5]
    gradients = [state if gradient is None else gradient for gradient in arguments[GRADIENTS]]
    is_missing = [gradient is None for gradient in arguments[GRADIENTS]]
    return [g.nbytes for g, missing in zip(gradients, is_missing, strict=True) if missing or not g.is_contiguous()]


@lru_cache(maxsize=64)
def needs(layer: Layer) -> Needs:
    """Of one kind of layer. The scratch memory is 0 where something else than torch's own allocator serves this process."""
    with unset_fake_temporarily():
        small, large = _passes(layer, TIMESTEPS), _passes(layer, 2 * TIMESTEPS)
    steps = BATCH * TIMESTEPS
    return Needs(
        *(Taken(max(0, 2 * less - more), round((more - less) / steps)) for less, more in zip(small, large, strict=True))
    )


def _passes(layer: Layer, timesteps: int) -> tuple[int, int, int]:
    """Bytes of the workspace, and what a real forward and backward take while they compute."""
    inputs = torch.zeros(timesteps, BATCH, layer.weights[0][1], dtype=layer.dtype)
    weights = [torch.zeros(shape, dtype=layer.dtype) for shape in layer.weights]
    states = [torch.zeros(BATCH, layer.hidden_size, dtype=layer.dtype) for _ in range(2)]
    size = (layer.mode, layer.hidden_size, layer.num_layers, layer.has_biases)
    given = (inputs, *weights, *states)
    shape = (layer.bidirectional, layer.batch_first)
    results, forward = _watch(lambda: FORWARD(*given, layer.reverse, [], *size, *shape, True))
    *made, workspace = results
    gradients = [torch.zeros_like(tensor) for tensor in made]
    settings: tuple[Any, ...] = (layer.reverse, *size, True, layer.bidirectional, [], layer.batch_first)
    _, backward = _watch(lambda: BACKWARD(*given, *made, *gradients, *settings, workspace))
    return workspace.nbytes, forward, backward


def _watch(compute: Callable[[], Any]) -> tuple[Any, int]:
    """What it makes, and the most bytes that lived meanwhile beside that."""
    os.environ.setdefault(LOG_LEVEL, SILENT)  # read when the first profiler of a process starts
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        results = compute()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    living = most = 0
    for _, change in changes:
        living += change
        most = max(most, living)
    return results, most - living

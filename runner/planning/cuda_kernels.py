"""What a GPU's kernels make where a CPU's make other things, for a step that is traced without either.

Fake tensors cannot be CUDA's where torch was built without it. So dropout keeps one byte an element, attention does not
keep its scores, and under autocast norms and softmax are computed in fp32. Not verified on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

IN_FP32 = {  # of autocast's list for CUDA, what transformers are made of; a CPU's list is shorter
    functional.layer_norm,
    functional.softmax,
    functional.log_softmax,
    torch.softmax,
    torch.log_softmax,
    Tensor.softmax,
    Tensor.log_softmax,
}


class CudaKernels(TorchFunctionMode):
    """While it is entered, those functions are computed as a GPU would."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Another function in the place of some, each with the same results."""
        kwargs = kwargs or {}
        if function is Tensor.backward:
            with self:  # what is computed again in it is a forward, too
                return _backward(args[0])
        if function is functional.dropout:
            return _dropout(*args, **kwargs)
        if function is functional.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if function in IN_FP32 and torch.is_autocast_enabled("cpu"):
            args = tuple(a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)
        return function(*args, **kwargs)


def _backward(loss: Tensor) -> None:
    """As `loss.backward()`, through the engine itself: whatever may be overridden is called without its mode."""
    ones = (torch.ones_like(loss),)
    how = {"allow_unreachable": True, "accumulate_grad": True}
    torch.autograd.graph._engine_run_backward((loss,), ones, False, False, (), **how)


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002
    if not training or not p:
        return input
    return torch.native_dropout(input, p, True)[0]


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(times, -3), value.repeat_interleave(times, -3)
    bias = None
    if attn_mask is not None:
        bias = attn_mask
        if bias.dtype is torch.bool:
            bias = torch.zeros_like(bias, dtype=query.dtype).masked_fill_(~bias, -1e4)
        bias = bias.to(query.dtype).expand(*query.shape[:-1], key.shape[-2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    output: Tensor = efficient(query, key, value, bias, True, dropout_p, is_causal, scale=scale)[0]
    return output

"""Elman's recurrence and the LSTM's, over whole sequences, in memory that follows from the shapes alone.

What torch's own take depends on the library below them (on a CPU half as much again for an LSTM), and no plan sees it.
Here each pass is a loop over the timesteps that writes into tensors made before it, so that there are as many
tensors for a long text as for a short one, and their sizes follow from the shapes.

Everything is (directions, timesteps, batch, features); states start at zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

tanh_backward = torch.ops.aten.tanh_backward.grad_input
sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


class Elman(Function):
    """h = tanh(input + h_before @ weight)."""

    GATES = 1

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        """Inputs (d, t, b, hidden) and weight (d, hidden, hidden) to all h, (d, t, b, hidden)."""
        states = torch.empty_like(inputs)
        before = None
        for given, state in zip(inputs.unbind(1), states.unbind(1), strict=True):
            _add_product(given, before, weight, out=state).tanh_()
            before = state
        ctx.save_for_backward(states, weight)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Of the inputs and the weight."""
        states, weight = ctx.saved_tensors
        grads, turned = torch.empty_like(states), weight.transpose(1, 2)
        after = None
        for given, state, here in _backwards(grad, states, grads):
            _add_product(given, after, turned, out=here)
            tanh_backward(here, state, grad_input=here)
            after = here
        return grads, _weight_gradient(states, grads)


class Lstm(Function):
    """c = f * c_before + i * g and h = o * tanh(c), where i, f, g and o are input + h_before @ weight, squashed."""

    GATES = 4

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor) -> Tensor:
        """Inputs (d, t, b, 4 hidden) and weight (d, hidden, 4 hidden) to all h, (d, t, b, hidden)."""
        hidden = weight.shape[1]
        gates = torch.empty_like(inputs)
        cells, states = (inputs.new_empty(*inputs.shape[:3], hidden) for _ in range(2))
        shares = [part.unbind(1) for part in gates.chunk(4, -1)]
        before = cell_before = None
        steps = (inputs.unbind(1), gates.unbind(1), *shares, cells.unbind(1), states.unbind(1))
        for given, gate, i, f, g, o, cell, state in zip(*steps, strict=True):
            _add_product(given, before, weight, out=gate)
            i.sigmoid_(), f.sigmoid_(), g.tanh_(), o.sigmoid_()
            torch.mul(i, g, out=cell)
            if cell_before is not None:
                cell.addcmul_(f, cell_before)
            torch.tanh(cell, out=state).mul_(o)
            before, cell_before = state, cell
        ctx.save_for_backward(gates, cells, states, weight)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Of the inputs and the weight."""
        gates, cells, states, weight = ctx.saved_tensors
        grads, turned = torch.empty_like(gates), weight.transpose(1, 2)
        of_state, of_cell, squashed = (torch.zeros_like(states[:, 0]) for _ in range(3))
        cells_before = (*reversed(cells.unbind(1)[:-1]), None)
        steps = _backwards(grad, grads, cells, *gates.chunk(4, -1), *grads.chunk(4, -1))
        after = None
        for (given, here, cell, i, f, g, o, of_i, of_f, of_g, of_o), cell_before in zip(
            steps, cells_before, strict=True
        ):
            _add_product(given, after, turned, out=of_state)
            torch.tanh(cell, out=squashed)
            torch.mul(of_state, squashed, out=of_o)
            of_state.mul_(o)
            tanh_backward(of_state, squashed, grad_input=of_state)
            of_cell.add_(of_state)
            torch.mul(of_cell, g, out=of_i)
            torch.mul(of_cell, i, out=of_g)
            of_f.zero_() if cell_before is None else torch.mul(of_cell, cell_before, out=of_f)
            of_cell.mul_(f)
            tanh_backward(of_g, g, grad_input=of_g)
            for of_gate, gate in ((of_i, i), (of_f, f), (of_o, o)):
                sigmoid_backward(of_gate, gate, grad_input=of_gate)
            after = here
        return grads, _weight_gradient(states, grads)


def _backwards(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The timesteps of all, from the last to the first."""
    return zip(*(reversed(tensor.unbind(1)) for tensor in tensors), strict=True)


def _add_product(terms: Tensor, factors: Tensor | None, weight: Tensor, *, out: Tensor) -> Tensor:
    """terms + factors @ weight into `out`; the terms alone where there are no factors."""
    return out.copy_(terms) if factors is None else torch.baddbmm(terms, factors, weight, out=out)


def _weight_gradient(states: Tensor, grads: Tensor) -> Tensor:
    """The sum over all timesteps but the first, which had no state before it."""
    return states[:, :-1].flatten(1, 2).transpose(1, 2) @ grads[:, 1:].flatten(1, 2)

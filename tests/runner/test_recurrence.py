"""Our recurrences are torch's: the same states and gradients, one way or both, for texts of any length."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from runner.models.recurrence import Elman, Lstm

UNITS = {"rnn": (Elman, nn.RNN), "lstm": (Lstm, nn.LSTM)}


@pytest.mark.parametrize("timesteps", [1, 2, 7])
@pytest.mark.parametrize("name", UNITS)
def test_it_is_what_torch_computes(name: str, timesteps: int) -> None:
    torch.manual_seed(1)
    ours, theirs = UNITS[name]
    both = [theirs(3, 5).double() for _ in range(2)]  # two directions, which know nothing of each other
    x = torch.randn(2, timesteps, 4, 3, dtype=torch.double)
    expected = torch.stack([unit(part)[0] for unit, part in zip(both, x, strict=True)])
    weights = torch.stack([unit.weight_hh_l0.detach().t() for unit in both]).requires_grad_()
    biases = [unit.bias_ih_l0 + unit.bias_hh_l0 for unit in both]
    gates = [part @ unit.weight_ih_l0.t() + bias for unit, part, bias in zip(both, x, biases, strict=True)]
    inputs = torch.stack(gates).detach().requires_grad_()
    states = ours.apply(inputs, weights)
    torch.testing.assert_close(states, expected)
    aim = torch.randn_like(states)
    (states * aim).sum().backward()
    (expected * aim).sum().backward()
    for number, unit in enumerate(both):
        torch.testing.assert_close(weights.grad[number].t(), unit.weight_hh_l0.grad)
        torch.testing.assert_close(inputs.grad[number].sum((0, 1)), unit.bias_ih_l0.grad)
        flat = inputs.grad[number].flatten(0, 1).t() @ x[number].flatten(0, 1)
        torch.testing.assert_close(flat, unit.weight_ih_l0.grad)


@pytest.mark.parametrize("name", UNITS)
def test_its_gradients_are_those_of_finite_differences(name: str) -> None:
    torch.manual_seed(2)
    ours, _ = UNITS[name]
    inputs = torch.randn(1, 4, 2, 3 * ours.GATES, dtype=torch.double, requires_grad=True)
    weights = torch.randn(1, 3, 3 * ours.GATES, dtype=torch.double, requires_grad=True)
    assert gradcheck(ours.apply, (inputs, weights))

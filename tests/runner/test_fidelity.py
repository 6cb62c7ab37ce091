"""The simulated device beside torch's own accounting, on training steps of a small BERT.

Torch's MemTracker (torch.distributed._tools) follows the storages that operations return. The allocator sees these, and
two kinds more: a Python number that autograd keeps for the backward, as a tensor of 8 bytes (of `scores * scale` in eager
attention: one a layer), and what lives only inside one operation, such as the contiguous copy of an embedding's indices,
the buffers of a layer norm's backward or the mask of a softmax, none of which falls on the peak here.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker

from memdash.config import TrainSection
from runner.optimizer import make_optimizer
from runner.simulated import SimulatedDevice

GIB = 1 << 30
LAYERS = 2
KEPT_NUMBERS = {"eager": 8 * LAYERS, "sdpa": 0}
CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore")  # the tracker's hooks meet deprecations of torch's own


class Side(NamedTuple):
    """What is allocated at the end of the forward, of the backward, of the step; and the most within the step."""

    forward: int
    backward: int
    end: int
    peak: int


MODELS: list[nn.Module] = []
OPTIMIZERS: list[Any] = []


@pytest.fixture(autouse=True)
def swept() -> Iterator[None]:
    """The tracker's hooks keep model and optimizer for ever: without this they would count in tests to come."""
    yield
    for optimizer in OPTIMIZERS:
        optimizer.state.clear()
    for model in MODELS:
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data, tensor.grad = torch.empty(0), None
    MODELS.clear()
    OPTIMIZERS.clear()
    gc.collect()


def bert(attention: str) -> nn.Module:
    """Untrained."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=1000,
        hidden_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=256,
        attn_implementation=attention,
    )
    model: nn.Module = BertForMaskedLM(config)
    MODELS.append(model)
    return model.train()


def make_adamw(kind: str, model: nn.Module) -> Any:
    """The runner's own, or torch's in the form that makes temporary tensors."""
    optimizer = make_optimizer(model, TrainSection()) if kind == "fused" else torch.optim.AdamW(model.parameters())
    OPTIMIZERS.append(optimizer)
    return optimizer


def step(device: SimulatedDevice, model: nn.Module, optimizer: Any, tokens: torch.Tensor) -> tuple[Side, Side]:
    """One training step, counted by the device and by the tracker."""
    tracker = MemTracker()
    tracker.track_external(model, optimizer)
    ours: list[int] = []
    theirs: list[int] = []
    peaks: list[int] = []

    def look() -> None:
        memory = device.read_memory()
        ours.append(memory.allocated_bytes or 0)
        peaks.append(memory.peak_allocated_bytes or 0)
        theirs.append(tracker.get_tracker_snapshot("current")[CPU]["Total"])

    device.read_memory()
    with tracker:
        batch = device.put({"tokens": tokens})["tokens"]
        loss = model(input_ids=batch, labels=batch).loss
        look()
        loss.backward()
        look()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        del loss, batch
        look()
    peak = tracker.get_tracker_snapshot("peak")[CPU]["Total"]
    return Side(*ours, max(peaks)), Side(*theirs, peak)


@pytest.mark.parametrize(("attention", "adamw"), [("eager", "fused"), ("sdpa", "fused"), ("eager", "unfused")])
def test_live_bytes_and_peaks_are_those_of_torchs_own_accounting(
    simulated: Callable[[int], SimulatedDevice], attention: str, adamw: str
) -> None:
    device = simulated(GIB)
    with device.host():
        model = bert(attention)
        batches = [torch.randint(5, 1000, (4, length)) for length in (16, 48, 32)]
    gc.collect()
    base = device.read_memory().allocated_bytes or 0
    device.place(model)
    optimizer = make_adamw(adamw, model)
    for tokens in batches:
        ours, theirs = step(device, model, optimizer, tokens)
        live = [figure - base for figure in ours[:3]]
        assert live == [theirs.forward + KEPT_NUMBERS[attention], theirs.backward, theirs.end]
        assert 0 <= ours.peak - base - theirs.peak <= 0.001 * theirs.peak
        assert theirs.peak > theirs.end * 1.1


def test_allocated_is_the_sum_of_the_storages_that_live(simulated: Callable[[int], SimulatedDevice]) -> None:
    device = simulated(GIB)
    with device.host():
        model = bert("eager")
        tokens = torch.randint(5, 1000, (4, 32))
    gc.collect()
    base = device.read_memory().allocated_bytes or 0
    device.place(model)
    optimizer = make_optimizer(model, TrainSection())
    batch = device.put({"tokens": tokens})["tokens"]
    model(input_ids=batch, labels=batch).loss.backward()
    parameters = list(model.parameters())
    states = [tensor for state in optimizer.state.values() for tensor in state.values()]
    live = [batch, *parameters, *(parameter.grad for parameter in parameters), *model.buffers(), *states]
    storages = [tensor.untyped_storage() for tensor in live if tensor is not None]
    total = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    assert (device.read_memory().allocated_bytes or 0) - base == total
    assert total > 4 * 4 * sum(parameter.numel() for parameter in parameters)  # weights, gradients, two moments

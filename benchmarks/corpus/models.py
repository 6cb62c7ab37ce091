"""What is trained on the simulated device: small models of different kinds, each with its own law of memory.

A batch is `size` examples of up to `length`; what a length counts is the model's business.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

WIDTH, HEADS, LAYERS, VOCABULARY = 64, 4, 2, 500
TEXT, MOST_QUESTIONS = 24, 4


class Block(nn.Module):
    """Attention written out, so that its memory grows with the square of the length."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(WIDTH, 3 * WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of `x`: examples, places, features."""
        size, length, _ = x.shape
        q, k, v = self.mix(x).view(size, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = torch.softmax(q @ k.transpose(-1, -2), dim=-1) @ v
        x = x + mixed.transpose(1, 2).reshape(size, length, WIDTH)
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


class Recurrent(nn.Module):
    """An LSTM of two layers over the whole sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.LSTM(WIDTH, 2 * WIDTH, num_layers=2, batch_first=True)
        self.out = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of `x`: examples, places, features."""
        return self.out(self.cells(x)[0])


class Encoder(nn.Module):
    """As BERT, with gradient checkpointing: each layer's insides are computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, dropout=0.1, activation="gelu", batch_first=True)
            for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of `x`: examples, places, features."""
        for layer in self.layers:
            x = checkpoint(layer, x, use_reentrant=False) if torch.is_grad_enabled() else layer(x)
        return x


class Convolutions(nn.Module):
    """A stack of them over a signal, halved in time and doubled in width twice."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (WIDTH, 2 * WIDTH, 4 * WIDTH)
        self.down = nn.ModuleList(nn.Conv1d(a, b, 5, 2, 2) for a, b in zip(sizes, sizes[1:], strict=False))
        self.out = nn.Conv1d(4 * WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Examples, a quarter of the places, features."""
        x = x.transpose(1, 2)
        for layer in self.down:
            x = nn.functional.gelu(layer(x))
        return self.out(x).transpose(1, 2)


Shape = Callable[[random.Random, int, int], tuple[int, int]]
"""Rows and tokens of each, for so many examples of such a length."""


@dataclass(frozen=True)
class Model:
    """How it is built, and what its batches look like."""

    body: Callable[[], list[nn.Module]]
    shape: Shape = lambda drawn, size, length: (size, length)

    def build(self) -> nn.Module:
        """From tokens to logits."""
        return nn.Sequential(nn.Embedding(VOCABULARY, WIDTH), *self.body(), nn.Linear(WIDTH, VOCABULARY))


def _items(_: random.Random, size: int, items: int) -> tuple[int, int]:
    """Every item of an example is asked about with its whole text."""
    return size * items, TEXT


def _questions(drawn: random.Random, size: int, length: int) -> tuple[int, int]:
    """Some examples are asked about more often than others, which their length does not tell."""
    return sum(drawn.randint(1, MOST_QUESTIONS) for _ in range(size)), length


def _transformer() -> list[nn.Module]:
    return [Block() for _ in range(LAYERS)]


MODELS = {
    "transformer": Model(_transformer),
    "recurrent": Model(lambda: [Recurrent()]),
    "encoder": Model(lambda: [Encoder()]),
    "convolutions": Model(lambda: [Convolutions()]),
    "items": Model(_transformer, _items),
    "questions": Model(_transformer, _questions),
}

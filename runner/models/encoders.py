"""Encoders small enough to train from scratch: one vector for each token of a text, whatever padding follows it."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from runner.models.recurrence import Elman, Lstm


class Encoded(NamedTuple):
    """What an encoder says, under the name that models of `transformers` use."""

    last_hidden_state: Tensor
    """(batch, length, width)."""


class Encoder(nn.Module):
    """Layers over an embedding; each takes what the one before gave, and what `_guide` makes of the mask."""

    base_model_prefix: ClassVar[str] = "encoder"
    supports_gradient_checkpointing: ClassVar[bool] = True
    layers: nn.ModuleList
    width: int
    """Of what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self._recomputes = False

    def gradient_checkpointing_enable(self) -> None:
        """Keep only what enters each layer."""
        self._recomputes = True

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Encoded:
        """Both (batch, length); the mask is 1 for the tokens of a text and 0 for the padding after them."""
        x, guide = self._embed(input_ids), self._guide(attention_mask)
        for layer in self.layers:
            if self._recomputes and self.training:
                x = checkpoint(layer, x, guide, use_reentrant=False)
            else:
                x = layer(x, guide)
        return Encoded(self._finish(x))

    def _embed(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError

    def _guide(self, mask: Tensor) -> Tensor:
        raise NotImplementedError

    def _finish(self, x: Tensor) -> Tensor:
        return x


class RecurrentEncoder(Encoder):
    """Reads a text forwards and, as a whole text that begins at its last token, backwards."""

    unit: ClassVar[type[Elman] | type[Lstm]]

    def __init__(
        self,
        vocab_size: int,
        *,
        embedding_size: int,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        directions = 2 if bidirectional else 1
        self.width = directions * hidden_size
        self.embedding = nn.Embedding(vocab_size, embedding_size)
        self.dropout = nn.Dropout(dropout)
        inputs = [embedding_size] + [self.width] * (num_layers - 1)
        self.layers = nn.ModuleList(
            RecurrentLayer(self.unit, size, hidden_size, directions, dropout) for size in inputs
        )

    def _embed(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.dropout(self.embedding(tokens.t()))
        return embedded

    def _guide(self, mask: Tensor) -> Tensor:
        """(length, batch, 1): where each token comes when its text is read from the end; padding stays where it is."""
        places = torch.arange(mask.shape[1], device=mask.device)
        return torch.where(mask.bool(), mask.sum(1, keepdim=True) - 1 - places, places).t()[..., None]

    def _finish(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1)


class RnnEncoder(RecurrentEncoder):
    """Of Elman's units."""

    unit = Elman


class LstmEncoder(RecurrentEncoder):
    """Of units with gates."""

    unit = Lstm


class RecurrentLayer(nn.Module):
    """One pass over padded rows, both ways at once: padding comes last in either, and so changes nothing before it."""

    def __init__(
        self, unit: type[Elman] | type[Lstm], inputs: int, hidden: int, directions: int, dropout: float
    ) -> None:
        super().__init__()
        self.unit, self.hidden, self.directions = unit, hidden, directions
        gates = unit.GATES * hidden
        self.weight_inputs = nn.Parameter(torch.empty(directions, inputs, gates))
        self.weight_states = nn.Parameter(torch.empty(directions, hidden, gates))
        self.bias = nn.Parameter(torch.empty(directions * gates))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mirrored: Tensor) -> Tensor:
        """(length, batch, inputs) to (length, batch, directions x hidden)."""
        ways = torch.stack([x, _take(x, mirrored)]) if self.directions == 2 else x[None]
        bias = self.bias.view(self.directions, 1, -1)
        gates = torch.baddbmm(bias, ways.flatten(1, 2), self.weight_inputs).view(*ways.shape[:3], -1)
        states: Tensor = self.unit.apply(gates, self.weight_states.to(gates.dtype))  # type: ignore[no-untyped-call]
        if self.directions == 2:
            forth, back = states
            states = torch.cat([forth, _take(back, mirrored)], -1)
        dropped: Tensor = self.dropout(states.view(*x.shape[:2], -1))
        return dropped


def _take(x: Tensor, places: Tensor) -> Tensor:
    return x.gather(0, places.expand(-1, -1, x.shape[-1]))


class TransformerEncoder(Encoder):
    """Blocks of attention and feed-forward, normalised before each, with a learned vector for each position."""

    def __init__(
        self,
        vocab_size: int,
        *,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        feedforward_size: int,
        max_positions: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.width = hidden_size
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        self.positions = nn.Embedding(max_positions, hidden_size)
        for table in (self.embedding, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Block(hidden_size, num_heads, feedforward_size, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)

    def _embed(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        embedded: Tensor = self.dropout(self.embedding(tokens) + self.positions(places))
        return embedded

    def _guide(self, mask: Tensor) -> Tensor:
        """(batch, 1, 1, length): which tokens may be looked at."""
        return mask.bool()[:, None, None]

    def _finish(self, x: Tensor) -> Tensor:
        normal: Tensor = self.norm(x)
        return normal


class Block(nn.Module):
    """One layer of a transformer."""

    def __init__(self, hidden: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_feedforward = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.queries_keys_values = nn.Linear(hidden, 3 * hidden)
        self.out = nn.Linear(hidden, hidden)
        self.feedforward = nn.Sequential(nn.Linear(hidden, feedforward), nn.GELU(), nn.Linear(feedforward, hidden))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """(batch, length, hidden) to the same."""
        size, length, hidden = x.shape
        parts = self.queries_keys_values(self.norm_attention(x)).view(size, length, 3, self.heads, -1)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4).unbind()
        found = scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
        x = x + self.dropout(self.out(found.transpose(1, 2).reshape(size, length, hidden)))
        x = x + self.dropout(self.feedforward(self.norm_feedforward(x)))
        return x

"""The model of signal-to-text: an LSTM reads the signal, another writes words and attends to what was read."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from runner.tasks.vocabulary import END, PAD, START, UNKNOWN

NEVER_SAID = [PAD, START, UNKNOWN]
Count = Annotated[int, msgspec.Meta(ge=1)]


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `model.config` may say."""

    hidden_size: Count = 128
    encoder_layers: Count = 1
    word_size: Count = 64
    """Of a word's embedding."""
    dropout: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.1


class Encoded(NamedTuple):
    """What the encoder made of a batch of signals."""

    outputs: Tensor
    """(batch, timesteps, hidden)."""
    is_padding: Tensor
    """(batch, timesteps)."""
    last: Tensor
    """(batch, hidden): the output at each signal's last timestep."""


class Encoder(nn.Module):
    """Reads forwards only, so that what a signal is padded with after its end changes nothing before it."""

    def __init__(self, channels: int, fields: Fields) -> None:
        super().__init__()
        layers, dropout = fields.encoder_layers, fields.dropout
        self.lstm = nn.LSTM(
            channels, fields.hidden_size, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, signals: Tensor, lengths: Tensor) -> Encoded:
        """(batch, timesteps, channels), and the timesteps of each that are not padding."""
        outputs = self.dropout(self.lstm(signals)[0])
        places = torch.arange(signals.shape[1], device=signals.device)
        last = outputs[torch.arange(len(outputs), device=signals.device), lengths - 1]
        return Encoded(outputs, places >= lengths[:, None], last)


class SignalToTextModel(nn.Module):
    """Attention by the product of what the decoder has and what the encoder read; all words of a text at once."""

    def __init__(self, channels: int, words: int, fields: Fields) -> None:
        super().__init__()
        size = fields.hidden_size
        self.encoder = Encoder(channels, fields)
        self.begin = nn.Linear(size, size)
        self.words = nn.Embedding(words, fields.word_size, padding_idx=PAD)
        self.decoder = nn.LSTM(fields.word_size, size, batch_first=True)
        self.attend = nn.Linear(size, size, bias=False)
        self.mix = nn.Linear(2 * size, size)
        self.dropout = nn.Dropout(fields.dropout)
        self.head = nn.Linear(size, words)

    def forward(self, signals: Tensor, lengths: Tensor, before: Tensor) -> Tensor:
        """Teacher forcing: logits (batch, words, vocabulary) of each word, given the right ones `before` it."""
        return self.decode(self.encoder(signals, lengths), before)

    def decode(self, encoded: Encoded, before: Tensor) -> Tensor:
        """The same of signals that are encoded already."""
        return self._write(encoded, before, self._start(encoded))[0]

    @torch.no_grad()
    def greedy(self, encoded: Encoded, max_words: int) -> Tensor:
        """(batch, at most max_words): the likeliest word each time, until every text has ended."""
        word = torch.full((len(encoded.last), 1), START, device=encoded.last.device)
        state = self._start(encoded)
        ended = torch.zeros_like(word, dtype=torch.bool)
        said: list[Tensor] = []
        while len(said) < max_words and not bool(ended.all()):
            logits, state = self._write(encoded, word, state)
            logits[..., NEVER_SAID] = float("-inf")
            word = logits.argmax(-1)
            ended |= word == END
            said.append(word)
        return torch.cat(said, dim=1)

    def _start(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        state = torch.tanh(self.begin(encoded.last))[None]
        return state, torch.zeros_like(state)

    def _write(
        self, encoded: Encoded, before: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        states, state = self.decoder(self.words(before), state)
        scores = self.attend(states) @ encoded.outputs.transpose(1, 2)
        weights = scores.masked_fill(encoded.is_padding[:, None], float("-inf")).softmax(-1)
        mixed = torch.tanh(self.mix(torch.cat([states, weights.to(states.dtype) @ encoded.outputs], -1)))
        return self.head(self.dropout(mixed)), state

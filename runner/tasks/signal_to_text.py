"""Signal to text: sequences of many channels, such as EEG, become words; scored by exact match, word errors, right words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from memdash.config import BUILT_IN_SIGNALS
from memdash.errors import UsageError
from memdash.units import parse_bytes
from runner.own_fields import read_fields
from runner.spec import Spec
from runner.tasks.downsampling import downsample, kept
from runner.tasks.made_signals import MadeSignals, Shape
from runner.tasks.protocol import Batch, Part
from runner.tasks.signal_files import SignalFile, Target, read_targets
from runner.tasks.signal_model import Fields, SignalToTextModel
from runner.tasks.sources import hold_out
from runner.tasks.vocabulary import FILE, PAD, START, Vocabulary
from runner.tasks.word_scores import finish, load_jiwer, score

Floats = npt.NDArray[np.float32]
LEAST_STD = 1e-6  # a channel that was not connected is divided by this


class SignalToText:
    """Each channel is brought to mean 0 and standard deviation 1; lengths are timesteps after down-sampling."""

    name = "signal-to-text"
    item_name = "words"

    def __init__(self, spec: Spec, checkpoint: Path | None = None) -> None:
        """With a `checkpoint` the words have the numbers that they have there."""
        self._spec = spec
        self._data = data = spec.config.data
        if spec.config.model.pretrained:
            raise UsageError("model.pretrained: signal-to-text trains its own model from random weights")
        self._fields = read_fields(Fields, spec.config.model.config, "model.config", self.name)
        self.channels, targets, self._read, self.loaded_bytes = _open(spec)
        if data.max_examples:
            del targets[data.max_examples :]
        train, validation = hold_out(len(targets), data.validation_fraction, spec.config.run.seed)
        if validation:
            load_jiwer()
        self._places = {"train": train, "validation": validation}
        self._targets = targets
        if checkpoint is not None and (checkpoint / FILE).is_file():
            self._vocabulary = Vocabulary.load(checkpoint)
        else:
            self._vocabulary = Vocabulary.of((targets[index].text for index in train), data.vocab_size)
        self._max_words = max(len(target.text.split()) for target in targets) + 1  # the end is said, too
        self.train_lengths: Sequence[int] = [self._length(index) for index in train]
        self.validation_lengths: Sequence[int] = [self._length(index) for index in validation]

    def build_model(self) -> nn.Module:
        """Random weights."""
        return SignalToTextModel(self.channels, len(self._vocabulary), self._fields)

    def collate(self, part: Part, indices: Sequence[int], epoch: int, pad_to: int = 0) -> Batch:
        """Signals (batch, timesteps, channels), padded with zeros to `pad_to` or the longest of this micro-batch."""
        chosen = [self._places[part][index] for index in indices]
        lengths = [self._length(index) for index in chosen]
        signals = torch.zeros(len(chosen), max(pad_to, *lengths), self.channels)
        for row, (index, length) in enumerate(zip(chosen, lengths, strict=True)):
            signals[row, :length] = torch.from_numpy(self._signal(index).T)
        texts = [self._vocabulary.encode(self._targets[index].text) for index in chosen]
        words = torch.full((len(chosen), max(map(len, texts))), PAD)
        for row, text in enumerate(texts):
            words[row, : len(text)] = torch.tensor(text)
        return {"signals": signals, "lengths": torch.tensor(lengths), "words": words}

    def count_items(self, batch: Batch) -> int:
        """Words, and the end of each text."""
        return int((batch["words"] != PAD).sum())

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy summed over the words, each guessed from the right ones before it."""
        return self._loss_sum(model(batch["signals"], batch["lengths"], _before(batch["words"])), batch["words"])

    def metric_sums(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """The same loss, and what the words that the model says by itself are worth."""
        model = cast("SignalToTextModel", model)
        encoded = model.encoder(batch["signals"], batch["lengths"])
        loss = self._loss_sum(model.decode(encoded, _before(batch["words"])), batch["words"])
        said = model.greedy(encoded, self._max_words).tolist()
        decode = self._vocabulary.decode
        return {"loss": float(loss), **score([*map(decode, batch["words"].tolist())], [*map(decode, said)])}

    def finish_metrics(self, sums: Mapping[str, float], num_items: int) -> dict[str, float]:
        """Loss per word, `exact_match`, `wer`, `word_accuracy`."""
        return {"loss": sums["loss"] / num_items, **finish(sums)}

    def save_files(self, model: nn.Module, folder: Path) -> None:
        """The shape of the model and its words."""
        shape = {"task": self.name, "channels": self.channels, "downsample": self._data.downsample}
        text = json.dumps({**shape, **msgspec.to_builtins(self._fields)}, indent=2)
        (folder / "config.json").write_text(text, encoding="utf-8")
        self._vocabulary.save(folder)

    def _length(self, index: int) -> int:
        return kept(self._targets[index].timesteps, self._data.downsample)

    def _signal(self, index: int) -> Floats:
        """(channels, length)."""
        signal = self._read(index, self._targets[index].timesteps)
        signal = downsample(signal, self._data.downsample, lowpass=self._data.lowpass)
        signal -= signal.mean(axis=1, keepdims=True)
        signal /= np.maximum(signal.std(axis=1, keepdims=True), LEAST_STD)
        return signal

    def _loss_sum(self, logits: Tensor, words: Tensor) -> Tensor:
        logits = logits.flatten(0, 1).float()  # a sum over a batch of half-precision losses would overflow
        return cross_entropy(logits, words.flatten(), ignore_index=PAD, reduction="sum")


def _before(words: Tensor) -> Tensor:
    """What was said before each word."""
    start = torch.full_like(words[:, :1], START)
    return torch.cat([start, words[:, :-1]], dim=1)


def _open(spec: Spec) -> tuple[int, list[Target], Callable[[int, int], Floats], int]:
    """The number of channels, the texts, what reads a signal, and the bytes of all that is in memory for that."""
    config, data = spec.config, spec.config.data
    if data.source == BUILT_IN_SIGNALS:
        shape = read_fields(Shape, config.task.options, "task.options", f"data.source = {data.source!r}")
        made = MadeSignals(config.run.seed, shape)
        targets = [Target(made.text(index), shape.timesteps) for index in range(shape.examples)]
        return shape.channels, targets, lambda index, _timesteps: made.signal(index), 0
    budget = config.memory.host_budget
    file = SignalFile(
        spec.path(data.source),
        memory_map=data.memory_map,
        budget_bytes=parse_bytes(budget) if budget else 0,
        only_looks=spec.only_looks,
    )
    targets = read_targets(spec.path(data.targets), file.shape, data.text_column)
    return file.shape[1], targets, file.read, file.loaded_bytes

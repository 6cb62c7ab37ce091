"""Text classification: one label a row, of a CSV, TSV or JSONL file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModel, AutoModelForSequenceClassification

from memdash.errors import UsageError
from runner.models.baselines import FIELDS, choose_baseline
from runner.models.classifier import HeadShape, over_baseline, over_pretrained
from runner.spec import Spec
from runner.tasks.pretrained import build, cut, load_tokenizer, model_config
from runner.tasks.protocol import Batch, Part
from runner.tasks.scores import class_sums, macro_f1
from runner.tasks.sources import hold_out, read_rows


class TextClassification:
    """Rows are cut at `data.max_length` tokens; the classes are the labels that occur, in alphabetical order."""

    name = "text-classification"
    item_name = "examples"

    def __init__(self, spec: Spec, saved_tokenizer: Path | None = None) -> None:
        self._spec = spec
        data = spec.config.data
        rows = read_rows(spec, labels=True)
        if data.max_examples:
            del rows[data.max_examples :]
        classes = sorted({row.label for row in rows})
        if len(classes) < 2:
            raise UsageError(f"data.source = {data.source!r}: all rows have the one label {classes[0]!r}")
        self._tokenizer = load_tokenizer(spec, saved_tokenizer, (row.text for row in rows))
        if self._tokenizer.pad_token_id is None:
            raise UsageError("the tokenizer has no padding token, which batches of unequal texts need")
        numbers = {name: number for number, name in enumerate(classes)}
        self._config = self._model_config(numbers)
        self.notes: list[str] = []
        tokens = self._cut([row.text for row in rows], data.max_length)
        examples = [(ids, numbers[row.label]) for ids, row in zip(tokens, rows, strict=True)]
        train, validation = hold_out(len(examples), data.validation_fraction, spec.config.run.seed)
        self._examples = {"train": [examples[i] for i in train], "validation": [examples[i] for i in validation]}
        self.train_lines: Sequence[int] = [rows[i].line for i in train]
        self.train_lengths: Sequence[int] = [len(ids) for ids, _ in self._examples["train"]]
        self.validation_lengths: Sequence[int] = [len(ids) for ids, _ in self._examples["validation"]]

    def build_model(self) -> nn.Module:
        """The architecture with a classification head: its own, or a small one."""
        section = self._spec.config.model
        head = HeadShape(section.head_hidden, section.head_dropout)
        if self._is_baseline:
            return over_baseline(self._config, head)
        if section.head_hidden:
            return over_pretrained(build(AutoModel, self._spec, self._config), head)
        model: nn.Module = build(AutoModelForSequenceClassification, self._spec, self._config)
        return model

    def collate(self, part: Part, indices: Sequence[int], epoch: int, pad_to: int = 0) -> Batch:
        """Padded to `pad_to`, or the longest of this micro-batch."""
        chosen = [self._examples[part][index] for index in indices]
        shape = (len(chosen), max(pad_to, *(len(ids) for ids, _ in chosen)))
        tokens = torch.full(shape, self._tokenizer.pad_token_id)
        attention = torch.zeros(shape, dtype=torch.long)
        for row, (ids, _) in enumerate(chosen):
            tokens[row, : len(ids)] = torch.tensor(ids)
            attention[row, : len(ids)] = 1
        return {
            "input_ids": tokens,
            "attention_mask": attention,
            "labels": torch.tensor([label for _, label in chosen]),
        }

    def truncate(self, length: int) -> None:
        """Keep the first tokens of each training example."""
        train = self._examples["train"]
        train[:] = [(cut(ids, length, self._tokenizer), label) for ids, label in train]
        self.train_lengths = [len(ids) for ids, _ in train]

    def count_items(self, batch: Batch) -> int:
        """Examples."""
        return len(batch["labels"])

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy summed over the examples."""
        return cross_entropy(self._logits(model, batch), batch["labels"], reduction="sum")

    def metric_sums(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Loss, right guesses, and what the F1 of each class is made of."""
        logits = self._logits(model, batch)
        loss = cross_entropy(logits, batch["labels"], reduction="sum")
        guesses = logits.argmax(-1)
        right = float((guesses == batch["labels"]).sum())
        return {"loss": float(loss), "accuracy": right, **class_sums(guesses, batch["labels"])}

    def finish_metrics(self, sums: Mapping[str, float], num_items: int) -> dict[str, float]:
        """Loss and accuracy of an example, and the mean F1 of the classes."""
        means = {name: sums[name] / num_items for name in ("loss", "accuracy")}
        return {**means, "macro_f1": macro_f1(sums)}

    def save_files(self, model: nn.Module, folder: Path) -> None:
        """What is needed to open it besides the weights: by `from_pretrained`, or by `runner.models.classifier`."""
        model.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
        self._tokenizer.save_pretrained(folder)

    @property
    def _is_baseline(self) -> bool:
        section = self._spec.config.model
        return not section.pretrained and section.architecture in FIELDS

    def _model_config(self, numbers: dict[str, int]) -> Any:
        """What the model is made from. Raises UsageError."""
        names = {number: name for name, number in numbers.items()}
        section, data = self._spec.config.model, self._spec.config.data
        if self._is_baseline:
            vocab_size = len(self._tokenizer)
            return choose_baseline(section.architecture, section.config, data.max_length, vocab_size, names)
        config = model_config(self._spec, self._tokenizer, id2label=names, label2id=numbers)
        config.pad_token_id = self._tokenizer.pad_token_id
        return config

    def _cut(self, texts: list[str], max_length: int) -> list[list[int]]:
        """Tokens of each text, with a note of how many were too long and what they lost."""
        tokens: list[list[int]] = self._tokenizer(texts, verbose=False)["input_ids"]
        total = sum(map(len, tokens))
        too_long = [number for number, ids in enumerate(tokens) if len(ids) > max_length]
        for number in too_long:
            tokens[number] = self._tokenizer(texts[number], truncation=True, max_length=max_length)["input_ids"]
        lost = total - sum(map(len, tokens))
        if too_long:
            text = f"data.max_length = {max_length}: {len(too_long)} of {len(texts)} texts are longer and were cut, "
            self.notes.append(f"{text}{lost} of {total} tokens ({lost / total:.1%}) lost")
        return tokens

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        logits: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return logits.float()  # a sum over a batch of half-precision losses would overflow

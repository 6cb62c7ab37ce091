"""Aspect quadruples: texts of one to many items, each extracted in six passes of the encoder and scored by valence and arousal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from transformers import AutoModel

from memdash.errors import UsageError
from runner.spec import Spec
from runner.tasks.aspects_model import ANSWERS, MAX_ITEMS, PASSES, SPAN_PASSES, AspectModel
from runner.tasks.pretrained import build, load_tokenizer, model_config
from runner.tasks.protocol import Batch, Part
from runner.tasks.quadruples import Characters, Example, Quadruple, read_quadruples
from runner.tasks.sources import hold_out

MIDDLE, REACH = 5.0, 4.0  # valence and arousal go from 1 to 9, their losses from -1 to 1
Tokens = tuple[int, int]
"""[first, last] of a span; (0, 0), the first token of all, for what is not said."""


@dataclass
class Row:
    """One text as tokens, with its items."""

    tokens: list[int]
    items: list[tuple[Tokens, Tokens, Quadruple]]
    line: int


class Aspects:
    """Lengths are items; texts are always padded to `data.max_length`, so that memory follows from the number of items."""

    name = "aspects"
    item_name = "quadruples"
    passes: Sequence[str] = PASSES

    def __init__(self, spec: Spec, saved_tokenizer: Path | None = None) -> None:
        self._spec = spec
        self._length = spec.config.data.max_length
        examples = read_quadruples(spec)
        self._tokenizer = load_tokenizer(spec, saved_tokenizer, (example.text for example in examples))
        if self._tokenizer.pad_token_id is None or not self._tokenizer.is_fast:
            raise UsageError("the tokenizer must have a padding token and know where in a text each token is")
        self._config = model_config(spec, self._tokenizer)
        categories = sorted({quadruple.category for example in examples for quadruple in example.quadruples})
        self._categories = {category: number for number, category in enumerate(categories)}
        rows = self._rows(examples)
        train, validation = hold_out(len(rows), spec.config.data.validation_fraction, spec.config.run.seed)
        self._parts = {"train": [rows[i] for i in train], "validation": [rows[i] for i in validation]}
        self.train_lengths: Sequence[int] = [len(row.items) for row in self._parts["train"]]
        self.validation_lengths: Sequence[int] = [len(row.items) for row in self._parts["validation"]]
        self.train_lines: Sequence[int] = [row.line for row in self._parts["train"]]

    def build_model(self) -> nn.Module:
        """The encoder with a head for each question."""
        return AspectModel(build(AutoModel, self._spec, self._config), len(self._categories))

    def collate(self, part: Part, indices: Sequence[int], epoch: int, pad_to: int = 0) -> Batch:
        """One row an item: each example takes as many rows as the one with the most items, or `pad_to`."""
        slots = max(pad_to, *(len(self._parts[part][index].items) for index in indices))
        return self._batch(part, [(index, place) for index in indices for place in range(slots)])

    def collate_items(self, part: Part, items: Sequence[tuple[int, int]], epoch: int) -> Batch:
        """One row for each of these items."""
        return self._batch(part, items)

    def truncate(self, length: int) -> None:
        """Keep the first `length` items of each training example."""
        for row in self._parts["train"]:
            del row.items[length:]
        self.train_lengths = [len(row.items) for row in self._parts["train"]]

    def count_items(self, batch: Batch) -> int:
        """Quadruples; rows that are padding are none."""
        return int(batch["is_item"].sum())

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """The losses of all six passes, summed over the items."""
        assert isinstance(model, AspectModel)
        total = sum(self._pass(model, batch, question)[0].sum() for question in PASSES)
        assert isinstance(total, Tensor)
        return total

    def metric_sums(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """The loss of each pass, and what `finish_metrics` makes figures of."""
        assert isinstance(model, AspectModel)
        sums: dict[str, float] = {}
        is_item = batch["is_item"]
        for question in PASSES:
            losses, found = self._pass(model, batch, question)
            sums[f"{question} loss".replace(" ", "_")] = float(losses.sum())
            if question in ANSWERS:
                exact = (found == batch[ANSWERS[question]]).all(1)
                sums[f"{question}_exact".replace(" ", "_")] = float((exact & is_item).sum())
                for name, number in _overlap(found, batch[ANSWERS[question]], is_item).items():
                    sums[name] = sums.get(name, 0.0) + number
            elif question == "valence":
                sums["category_accuracy"] = float(((found == batch["category"]) & is_item).sum())
        return sums

    def finish_metrics(self, sums: Mapping[str, float], num_items: int) -> dict[str, float]:
        """Means over the items, and F1 of the tokens of all spans."""
        metrics = {name: total / num_items for name, total in sums.items() if not name.startswith("tokens_")}
        losses = {name: value for name, value in metrics.items() if name.endswith("_loss")}
        both = sums["tokens_found"] + sums["tokens_there"]
        f1 = 2 * sums["tokens_right"] / both if both else 0.0
        return {"loss": sum(losses.values()), **metrics, "span_f1": f1}

    def save_files(self, model: nn.Module, folder: Path) -> None:
        """What `from_pretrained` needs to open the encoder."""
        model.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
        self._tokenizer.save_pretrained(folder)

    # ---- one of the six passes ----

    def _pass(self, model: AspectModel, batch: Batch, question: str) -> tuple[Tensor, Tensor]:
        """The loss of each row, 0 where it is padding, and what was found: a span, the category (valence), or the score."""
        hidden = model.read(batch, question)
        if question in SPAN_PASSES:
            ends = model.span(hidden, question, batch["attention_mask"])
            answer = batch[ANSWERS[question]]
            first, last = (cross_entropy(end, answer[:, n], reduction="none") for n, end in enumerate(ends))
            losses = (first + last) / 2
            found = torch.stack([end.argmax(-1) for end in ends], dim=1)
        else:
            score = model.score(hidden, question)
            losses = mse_loss(score, batch[question], reduction="none")
            found = score
            if question == "valence":  # the pass that knows both spans also tells what they are about
                categories = model.category(hidden[:, 0]).float()
                losses = losses + cross_entropy(categories, batch["category"], reduction="none")
                found = categories.argmax(-1)
        return torch.where(batch["is_item"], losses, torch.zeros_like(losses)), found.detach()

    # ---- data ----

    def _batch(self, part: Part, items: Sequence[tuple[int, int]]) -> Batch:
        """A row for each (example, place); one beyond the example's items is padding."""
        size = len(items)
        batch = {
            "input_ids": torch.full((size, self._length), self._tokenizer.pad_token_id),
            "attention_mask": torch.zeros(size, self._length, dtype=torch.long),
            "number": torch.zeros(size, dtype=torch.long),
            "aspect": torch.zeros(size, 2, dtype=torch.long),
            "opinion": torch.zeros(size, 2, dtype=torch.long),
            "category": torch.zeros(size, dtype=torch.long),
            "valence": torch.zeros(size),
            "arousal": torch.zeros(size),
            "is_item": torch.zeros(size, dtype=torch.bool),
        }
        batch["attention_mask"][:, 0] = 1  # a row that attends to nothing would be no number
        for row, (index, place) in enumerate(items):
            example = self._parts[part][index]
            if place >= len(example.items):
                continue
            aspect, opinion, quadruple = example.items[place]
            batch["input_ids"][row, : len(example.tokens)] = torch.tensor(example.tokens)
            batch["attention_mask"][row, : len(example.tokens)] = 1
            batch["number"][row] = place
            batch["aspect"][row] = torch.tensor(aspect)
            batch["opinion"][row] = torch.tensor(opinion)
            batch["category"][row] = self._categories[quadruple.category]
            batch["valence"][row] = (quadruple.valence - MIDDLE) / REACH
            batch["arousal"][row] = (quadruple.arousal - MIDDLE) / REACH
            batch["is_item"][row] = True
        return batch

    def _rows(self, examples: list[Example]) -> list[Row]:
        """Raises UsageError for the first example that is longer than the model is to see."""
        encoded: Any = self._tokenizer([e.text for e in examples], return_offsets_mapping=True, verbose=False)
        rows = []
        for example, tokens, offsets in zip(examples, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            place = f"{self._spec.config.data.source}:{example.line}"
            if len(tokens) > self._length:
                hint = f"`data.max_length = {max(map(len, encoded['input_ids']))}` is enough for all"
                raise UsageError(
                    f"{place}: {len(tokens)} tokens, more than data.max_length = {self._length}", hint=hint
                )
            if len(example.quadruples) > MAX_ITEMS:
                raise UsageError(f"{place}: {len(example.quadruples)} quadruples, more than {MAX_ITEMS}")
            items = [(_tokens(q.aspect, offsets), _tokens(q.opinion, offsets), q) for q in example.quadruples]
            rows.append(Row(tokens, items, example.line))
        return rows


def _tokens(span: Characters, offsets: Sequence[tuple[int, int]]) -> Tokens:
    """The tokens that hold any of these characters."""
    start, stop = span
    inside = [place for place, (begin, end) in enumerate(offsets) if begin < stop and end > start]
    return (inside[0], inside[-1]) if inside else (0, 0)


def _overlap(found: Tensor, there: Tensor, is_item: Tensor) -> dict[str, float]:
    """Tokens of the spans that were found, of those that are there, and of both; a span that ends before it starts has none."""
    sizes = {"found": found[:, 1] - found[:, 0], "there": there[:, 1] - there[:, 0]}
    first, last = torch.maximum(found[:, 0], there[:, 0]), torch.minimum(found[:, 1], there[:, 1])
    sizes["right"] = last - first
    return {f"tokens_{name}": float(((size + 1).clamp_min(0) * is_item).sum()) for name, size in sizes.items()}

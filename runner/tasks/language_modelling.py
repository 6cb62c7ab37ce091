"""Language modelling: masked for BERT-like architectures, next-token for GPT-like ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from memdash.errors import UsageError
from runner.randomness import mix
from runner.spec import Spec
from runner.tasks.pretrained import build, cut, load_tokenizer, model_config
from runner.tasks.protocol import Batch, Part
from runner.tasks.sources import hold_out, read_rows

IGNORED = -100  # the label that a loss leaves out, as everywhere in transformers
KEPT, MASKED = 0.1, 0.9  # of the chosen tokens: 10 % stay, 10 % become random ones, 80 % become [MASK], as BERT was


class LanguageModelling:
    """Texts are cut into blocks of at most `data.max_length` tokens; a block never spans two texts."""

    name = "language-modelling"
    item_name = "tokens"

    def __init__(self, spec: Spec, saved_tokenizer: Path | None = None) -> None:
        self._spec = spec
        self._seed = spec.config.run.seed
        rows = read_rows(spec, labels=False)
        texts = [row.text for row in rows]
        self._tokenizer = load_tokenizer(spec, saved_tokenizer, texts)
        self._config = model_config(spec, self._tokenizer)
        self.is_masked = type(self._config) in MODEL_FOR_MASKED_LM_MAPPING
        if not self.is_masked and type(self._config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise UsageError(f"model.architecture = {self._config.model_type!r}: is not a language model")
        if self.is_masked and self._tokenizer.mask_token_id is None:
            raise UsageError("the tokenizer has no mask token, which masked language modelling needs")
        blocks, text_of = self._cut(texts)
        train, validation = hold_out(len(blocks), spec.config.data.validation_fraction, self._seed)
        self._blocks = {"train": [blocks[i] for i in train], "validation": [blocks[i] for i in validation]}
        self.train_lines: Sequence[int] = [rows[text_of[i]].line for i in train]
        self.train_lengths: Sequence[int] = [len(block) for block in self._blocks["train"]]
        self.validation_lengths: Sequence[int] = [len(block) for block in self._blocks["validation"]]

    def build_model(self) -> nn.Module:
        """The architecture with its language-modelling head."""
        model: nn.Module = build(
            AutoModelForMaskedLM if self.is_masked else AutoModelForCausalLM, self._spec, self._config
        )
        if not self.is_masked:
            model.config.use_cache = False  # type: ignore[union-attr]  # keys and values of the past are of no use in training
        return model

    def collate(self, part: Part, indices: Sequence[int], epoch: int, pad_to: int = 0) -> Batch:
        """Padded to `pad_to` or the longest of this micro-batch; masks are a function of (seed, epoch, index)."""
        blocks = [self._blocks[part][index] for index in indices]
        shape = (len(blocks), max(pad_to, *map(len, blocks)))
        tokens = torch.full(shape, self._tokenizer.pad_token_id or 0)
        labels = torch.full(shape, IGNORED)
        attention = torch.zeros(shape, dtype=torch.long)
        for row, (index, block) in enumerate(zip(indices, blocks, strict=True)):
            inputs, targets = block, block
            if self.is_masked:
                inputs, targets = self._mask(block, mix(self._seed, part, epoch if part == "train" else 0, index))
            tokens[row, : len(block)], labels[row, : len(block)] = inputs, targets
            attention[row, : len(block)] = 1
        return {"input_ids": tokens, "attention_mask": attention, "labels": labels}

    def truncate(self, length: int) -> None:
        """Keep the first tokens of each training block."""
        train = self._blocks["train"]
        train[:] = [torch.tensor(cut(block.tolist(), length, self._tokenizer)) for block in train]
        self.train_lengths = [len(block) for block in train]

    def count_items(self, batch: Batch) -> int:
        """Labels that are not ignored; for a causal model those after the shift."""
        labels = batch["labels"] if self.is_masked else batch["labels"][:, 1:]
        return int((labels != IGNORED).sum())

    def loss_sum(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy summed over the tokens."""
        return self._loss_sum(*self._forward(model, batch))

    def metric_sums(self, model: nn.Module, batch: Batch) -> dict[str, float]:
        """Loss and right guesses."""
        logits, labels = self._forward(model, batch)
        right = (logits.argmax(-1) == labels).sum()
        return {"loss": float(self._loss_sum(logits, labels)), "accuracy": float(right)}

    def save_files(self, model: nn.Module, folder: Path) -> None:
        """What `from_pretrained` needs besides the weights."""
        model.config.save_pretrained(folder)  # type: ignore[union-attr, operator]
        self._tokenizer.save_pretrained(folder)

    def _forward(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        if self.is_masked:
            return logits, batch["labels"]
        return logits[:, :-1], batch["labels"][:, 1:]

    def _loss_sum(self, logits: Tensor, labels: Tensor) -> Tensor:
        logits = logits.flatten(0, 1).float()  # a sum over a batch of half-precision losses would overflow
        return cross_entropy(logits, labels.flatten(), ignore_index=IGNORED, reduction="sum")

    def _cut(self, texts: list[str]) -> tuple[list[Tensor], list[int]]:
        """Blocks of tokens, with the tokenizer's own ends ([CLS] ... [SEP]) where it has them, and the text of each."""
        data = self._spec.config.data
        ends = self._tokenizer("")["input_ids"] if self.is_masked else []
        room = data.max_length - len(ends)
        if room < 1:
            raise UsageError(f"data.max_length = {data.max_length}: leaves no room beside {len(ends)} special tokens")
        blocks, text_of = [], []
        for number, ids in enumerate(self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]):
            for start in range(0, len(ids), room):
                piece = ids[start : start + room]
                piece = ends[:-1] + piece + ends[-1:]
                if len(piece) > 1:  # a lone last token teaches a causal model nothing
                    blocks.append(torch.tensor(piece))
                    text_of.append(number)
        if data.max_examples:
            del blocks[data.max_examples :]
        if not blocks:
            raise UsageError(f"data.source = {data.source!r}: there is no text in it")
        return blocks, text_of

    def _mask(self, block: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """One block with some tokens hidden, and the labels that name them; at least one is."""
        generator = torch.Generator().manual_seed(seed)
        special = torch.isin(block, self._special_ids())
        draw = torch.rand(len(block), generator=generator).masked_fill(special, 2.0)
        chosen = draw < self._spec.config.train.mlm_probability
        chosen[draw.argmin()] = True
        fate = torch.rand(len(block), generator=generator)
        other = torch.randint(len(self._tokenizer), (len(block),), generator=generator)
        hidden = torch.where(fate < MASKED, torch.full_like(block, self._tokenizer.mask_token_id), other)
        inputs = torch.where(chosen & (fate >= KEPT), hidden, block)
        return inputs, torch.where(chosen, block, torch.full_like(block, IGNORED))

    def _special_ids(self) -> Any:
        return torch.tensor(self._tokenizer.all_special_ids)

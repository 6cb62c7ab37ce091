"""The model behind the task `aspects`: one encoder that is asked six questions about each item, and a head for each answer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from runner.tasks.protocol import Batch

PASSES = ("forward aspect", "forward opinion", "backward opinion", "backward aspect", "valence", "arousal")
"""The questions, in order: the aspect, its opinion; the other way round, the opinion, its aspect; and the two scores of both."""
SPAN_PASSES = PASSES[:4]
ANSWERS = {
    "forward aspect": "aspect",
    "forward opinion": "opinion",
    "backward opinion": "opinion",
    "backward aspect": "aspect",
}
"""Which span each of them looks for."""
GIVEN = {
    "forward opinion": ("aspect",),
    "backward aspect": ("opinion",),
    "valence": ("aspect", "opinion"),
    "arousal": ("aspect", "opinion"),
}
"""What each question tells; the first of either direction is only told the number of the item in its text."""
MAX_ITEMS = 64  # numbers of items that the model can tell apart


class AspectModel(nn.Module):
    """Row by row: what it takes follows from the number of rows alone, of which each is one item of one text."""

    supports_gradient_checkpointing = True

    def __init__(self, encoder: Any, num_categories: int) -> None:
        super().__init__()
        self.config = encoder.config
        # Under the name that transformers looks for, so that a checkpoint opens as the plain encoder.
        self.base_model_prefix: str = encoder.base_model_prefix
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # nothing here would train it
        self.add_module(self.base_model_prefix, encoder)
        hidden = self.config.hidden_size
        self.questions = nn.Embedding(len(PASSES), hidden)
        self.marks = nn.Embedding(2, hidden)
        self.numbers = nn.Embedding(MAX_ITEMS, hidden)
        self.spans = nn.ModuleList(
            nn.Linear(hidden, 2, bias=False) for _ in SPAN_PASSES
        )  # a softmax over places cancels it
        self.scores = nn.ModuleList(nn.Linear(hidden, 1) for _ in range(2))
        self.category = nn.Linear(hidden, num_categories)
        for module in (self.questions, self.marks, self.numbers):
            nn.init.normal_(module.weight, std=0.02)

    @property
    def base_model(self) -> nn.Module:
        """The encoder."""
        encoder: nn.Module = getattr(self, self.base_model_prefix)
        return encoder

    def activation_checkpointing_enable(self) -> None:
        """Keep only what enters each layer of the encoder."""
        encoder: Any = self.base_model
        (getattr(encoder, "activation_checkpointing_enable", None) or encoder.gradient_checkpointing_enable)()

    def read(self, batch: Batch, question: str) -> Tensor:
        """One forward pass of the encoder: (rows, length, hidden)."""
        encoder: Any = self.base_model
        words: Tensor = encoder.get_input_embeddings()(batch["input_ids"])
        number = PASSES.index(question)
        words = words + self.questions.weight[number]
        if question not in GIVEN:
            words = words + self.numbers(batch["number"])[:, None]
        for which, name in enumerate(("aspect", "opinion")):
            if name in GIVEN.get(question, ()):
                words = words + _within(batch[name], words.shape[1]) * self.marks.weight[which]
        hidden: Tensor = encoder(inputs_embeds=words, attention_mask=batch["attention_mask"]).last_hidden_state
        return hidden

    def span(self, hidden: Tensor, question: str, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the first and of the last token of the answer, (rows, length) each; padding is never one."""
        logits = self.spans[SPAN_PASSES.index(question)](hidden).float()
        logits = logits.masked_fill(attention_mask[..., None] == 0, float("-inf"))
        first, last = logits.unbind(-1)
        return first, last

    def score(self, hidden: Tensor, question: str) -> Tensor:
        """Valence or arousal, (rows,), from -1 to 1 on the scale that the losses use."""
        scores: Tensor = self.scores[PASSES.index(question) - len(SPAN_PASSES)](hidden[:, 0]).float()
        return scores.squeeze(-1)


def _within(span: Tensor, length: int) -> Tensor:
    """1 for the tokens of a span [first, last], (rows, length, 1); none for the one that is not said, which is (0, 0)."""
    places = torch.arange(length, device=span.device)
    first, last = span[:, :1], span[:, 1:]
    return ((places >= first) & (places <= last) & (last > 0))[..., None].float()

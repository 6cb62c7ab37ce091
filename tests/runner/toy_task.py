"""A small task for tests, found by the runner as `toy_task:toy`: token sequences of unequal length, some labels ignored."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

IGNORED = -100
SYMBOLS = 7


class Toy(nn.Module):
    """Embedding, a BatchNorm with statistics of its own when asked for, dropout, a tied head."""

    def __init__(self, dropout, batch_norm, width=8):
        super().__init__()
        self.embed = nn.Embedding(SYMBOLS, width)
        self.mix = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, SYMBOLS)
        self.head.weight = self.embed.weight
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, tokens):
        if self.training:  # an evaluation that a stop has cut short is done again after the resume
            self.calls += 1
        hidden = torch.tanh(self.mix(self.embed(tokens)))
        hidden = self.norm(hidden.transpose(1, 2)).transpose(1, 2)
        return self.head(self.dropout(hidden))


class ToyTask:
    """Each symbol is to be mapped to the next one; the second label of every third example is ignored."""

    name, item_name = "toy", "tokens"

    def __init__(self, count=20, held_out=6, dropout=0.0, batch_norm=False, width=8, fail_at_step=0, dtype="float64"):
        generator = torch.Generator().manual_seed(1)
        lengths = torch.randint(2, 9, (count + held_out,), generator=generator).tolist()
        texts = [torch.randint(1, SYMBOLS, (length,), generator=generator) for length in lengths]
        self.parts = {"train": texts[:count], "validation": texts[count:]}
        self.train_lengths, self.validation_lengths = lengths[:count], lengths[count:]
        self.dropout, self.batch_norm, self.width = dropout, batch_norm, width
        self.dtype = getattr(torch, dtype)
        self.fail_at_step, self.forwards = fail_at_step, 0

    def build_model(self):
        return Toy(self.dropout, self.batch_norm, self.width).to(self.dtype)

    def collate(self, part, indices, epoch):
        texts = [self.parts[part][index] for index in indices]
        longest = max(map(len, texts))
        tokens = torch.zeros(len(texts), longest, dtype=torch.long)
        labels = torch.full((len(texts), longest), IGNORED)
        for row, (index, text) in enumerate(zip(indices, texts, strict=True)):
            tokens[row, : len(text)] = text
            labels[row, : len(text)] = (text + 1) % SYMBOLS
            if index % 3 == 0:
                labels[row, 1] = IGNORED
        return {"tokens": tokens, "labels": labels}

    def count_items(self, batch):
        return int((batch["labels"] != IGNORED).sum())

    def loss_sum(self, model, batch):
        self.forwards += 1
        if self.forwards == self.fail_at_step:
            raise ZeroDivisionError("a bug in the user's task")
        logits = model(batch["tokens"])
        return cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED, reduction="sum")

    def metric_sums(self, model, batch):
        return {"loss": float(self.loss_sum(model, batch))}

    def save_files(self, model, folder):
        (folder / "notes.txt").write_text("toy")


def toy(options, config):
    """What a config names."""
    return ToyTask(**options)

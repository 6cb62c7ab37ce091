"""Paragraphs of Python's manual, of very different lengths: is one about code? A small transformer reads the characters."""

import pydoc_data.topics

import torch
from torch import nn
from torch.nn.functional import cross_entropy

PADDING, CHARACTERS, LONGEST = 0, 128, 4096


class Reader(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.embed = nn.Embedding(CHARACTERS, hidden, padding_idx=PADDING)
        self.place = nn.Embedding(LONGEST, hidden)
        self.queries, self.keys, self.values = (nn.Linear(hidden, hidden) for _ in range(3))
        self.forth = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 4 * hidden), nn.GELU())
        self.back = nn.Linear(4 * hidden, hidden)
        self.head = nn.Linear(hidden, 2)
        self.heads = heads
        self.maps = None

    def forward(self, text):
        size, length = text.shape
        x = self.embed(text) + self.place(torch.arange(length))
        q, k, v = (
            part(x).view(size, length, self.heads, -1).transpose(1, 2)
            for part in (self.queries, self.keys, self.values)
        )
        scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5  # length * length numbers for each example and head
        scores = scores.masked_fill((text == PADDING)[:, None, None], float("-inf"))
        maps = scores.softmax(-1)
        if self.maps is not None and self.training:
            self.maps.append(maps.detach())  # "to look at later": what stays on the device, step by step
        x = x + (maps @ v).transpose(1, 2).reshape(size, length, -1)
        x = x + self.back(self.forth(x))
        return self.head(x.mean(1))


class Paragraphs:
    name, item_name = "paragraphs", "examples"

    def __init__(self, options):
        self.options = options
        usual, rare = options.get("usual", 400), options.get("longest", 2000)
        texts = [text for topic in pydoc_data.topics.topics.values() for text in topic.split("\n\n") if len(text) > 40]
        long_one = max(texts, key=len)[:rare]
        texts = [text for text in texts if len(text) <= usual][: options.get("examples", 1600)]
        if "long_at" in options:  # the index of one example that is many times as long as the others
            texts[options["long_at"]] = long_one
        tokens = [torch.tensor([min(ord(c), CHARACTERS - 1) for c in text]) for text in texts]
        rows = list(zip(tokens, ["   " in text for text in texts], strict=True))
        held_out = len(rows) - 64
        self.parts = {"train": rows[:held_out], "validation": rows[held_out:]}
        self.train_lengths = [len(text) for text, _ in self.parts["train"]]
        self.validation_lengths = [len(text) for text, _ in self.parts["validation"]]

    def build_model(self):
        model = Reader(self.options.get("hidden", 32), self.options.get("heads", 2))
        if self.options.get("leak"):
            model.maps = []
        return model

    def collate(self, part, indices, epoch):
        texts, labels = zip(*(self.parts[part][i] for i in indices), strict=True)
        return {"text": nn.utils.rnn.pad_sequence(texts, batch_first=True), "labels": torch.tensor(labels).long()}

    def count_items(self, batch):
        return len(batch["labels"])

    def loss_sum(self, model, batch):
        return cross_entropy(model(batch["text"]), batch["labels"], reduction="sum")

    def metric_sums(self, model, batch):
        guesses = model(batch["text"])
        right = (guesses.argmax(-1) == batch["labels"]).sum()
        return {
            "loss": float(cross_entropy(guesses, batch["labels"], reduction="sum")),
            "accuracy": float(right),
        }

    def save_files(self, model, folder):
        pass


def paragraphs(options, config):
    return Paragraphs(options)

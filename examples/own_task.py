"""A task of your own in plain torch: a small GRU learns to spell from Python's own manual, one character at a time."""

import pydoc_data.topics

import torch
from torch import nn
from torch.nn.functional import cross_entropy


class Speller(nn.Module):
    def __init__(self, characters, hidden):
        super().__init__()
        self.embed = nn.Embedding(characters, 32)
        self.gru = nn.GRU(32, hidden, batch_first=True)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(hidden, characters)

    def forward(self, text):
        return self.head(self.dropout(self.gru(self.embed(text))[0]))


class Spelling:
    name, item_name = "spelling", "characters"

    def __init__(self, hidden, window, examples):
        text = "".join(pydoc_data.topics.topics.values())[: window * examples]
        self.alphabet, self.hidden = sorted(set(text)), hidden
        number = {character: i for i, character in enumerate(self.alphabet)}
        pieces = torch.tensor([number[character] for character in text]).split(window)
        self.parts = {"train": pieces[:-64], "validation": pieces[-64:-1]}
        self.train_lengths = [len(piece) for piece in self.parts["train"]]
        self.validation_lengths = [len(piece) for piece in self.parts["validation"]]

    def build_model(self):
        return Speller(len(self.alphabet), self.hidden)

    def collate(self, part, indices, epoch):
        return {"text": torch.stack([self.parts[part][i] for i in indices])}

    def count_items(self, batch):
        return batch["text"][:, 1:].numel()

    def loss_sum(self, model, batch):  # the sum, not the mean: memdash divides by the items of the whole group
        guesses = model(batch["text"][:, :-1])
        return cross_entropy(guesses.flatten(0, 1), batch["text"][:, 1:].flatten(), reduction="sum")

    def metric_sums(self, model, batch):
        return {"loss": float(self.loss_sum(model, batch))}

    def save_files(self, model, folder):
        (folder / "alphabet.txt").write_text("".join(self.alphabet), encoding="utf-8")


def spelling(options, config):
    return Spelling(options.get("hidden", 128), options.get("window", 64), options.get("examples", 2048))

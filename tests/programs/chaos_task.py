"""What tests/chaos.py trains: a small causal transformer that logs what each update learned, and misbehaves when ordered to.

The runner finds it as `chaos_task:reader`. Orders are JSON files that the test puts into a folder; each is obeyed once.
"""

import json
import os
import pydoc_data.topics
import sys
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.optim.optimizer import register_optimizer_step_post_hook

from runner.simulated import NativeLimiter, compile_allocator

IGNORED = -100
HEADS = 4
SHORTEST, LONGEST = 16, 48
FLOOD_LINE = "flood " * 170 + "\n"


class Block(nn.Module):
    """Attention and a feed-forward layer; no dropout, so that a changed split changes nothing but rounding."""

    def __init__(self, width):
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, hidden):
        count, length, width = hidden.shape
        mixed = self.mix(self.before(hidden)).view(count, length, 3, HEADS, width // HEADS)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + self.out(seen.transpose(1, 2).reshape(count, length, width))
        return hidden + self.think(self.between(hidden))


class Reader(nn.Module):
    """Guesses the next character."""

    def __init__(self, characters, width, layers):
        super().__init__()
        self.embed, self.place = nn.Embedding(characters, width), nn.Embedding(LONGEST, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))
        self.head = nn.Linear(width, characters)

    def forward(self, text):
        return self.head(self.blocks(self.embed(text) + self.place.weight[: text.shape[1]]))


class Ledger:
    """One line an update, written before anything can be saved of it: its number in the training, and its examples.

    The number is the optimizer's own, which goes back with a checkpoint; so what was trained again can be told.
    """

    def __init__(self, folder):
        name = f"ledger-{os.environ['MEMDASH_RUN_ID']}.jsonl"
        self._file = os.open(folder / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._attempt = int(os.environ["MEMDASH_ATTEMPT"])
        self._epoch = 0
        self._slices = []
        register_optimizer_step_post_hook(self._updated)

    def begin(self, epoch):
        """A group is cut into slices, for the first time or again: what was fed before did not count."""
        self._epoch, self._slices = epoch, []

    def feed(self, indices):
        """One slice goes forward."""
        self._slices.append(indices.tolist())

    def _updated(self, optimizer, *_):
        step = int(next(iter(optimizer.state.values()))["step"])
        line = {"step": step, "epoch": self._epoch, "slices": self._slices}
        line |= {"attempt": self._attempt, "time_s": time.time()}
        os.write(self._file, b"\n" + json.dumps(line).encode() + b"\n")  # a line that a kill cut short stays alone
        self._slices = []


class Reading:
    """Pieces of unequal length from Python's manual, in double precision."""

    name, item_name = "reading", "characters"

    def __init__(self, folder, examples, held_out, width, layers):
        self._folder, self._width, self._layers = Path(folder), width, layers
        self._orders = self._folder / f"orders-{os.environ['MEMDASH_RUN_ID']}.json"
        self._ledger = Ledger(self._folder)
        self._neighbour, self._neighbour_stays = None, 0
        text = "".join(pydoc_data.topics.topics.values())
        self._alphabet = sorted(set(text))
        number = {character: i for i, character in enumerate(self._alphabet)}
        generator = torch.Generator().manual_seed(3)
        lengths = torch.randint(SHORTEST, LONGEST + 1, (examples + held_out,), generator=generator).tolist()
        starts = torch.randint(len(text) - LONGEST, (len(lengths),), generator=generator).tolist()
        pieces = [
            torch.tensor([number[character] for character in text[start : start + length]])
            for start, length in zip(starts, lengths, strict=True)
        ]
        self.parts = {"train": pieces[:examples], "validation": pieces[examples:]}
        self.train_lengths, self.validation_lengths = lengths[:examples], lengths[examples:]

    def build_model(self):
        return Reader(len(self._alphabet), self._width, self._layers).double()

    def collate(self, part, indices, epoch):
        if part == "train":
            self._ledger.begin(epoch)
        pieces = [self.parts[part][index] for index in indices]
        text = nn.utils.rnn.pad_sequence(pieces, batch_first=True, padding_value=IGNORED)
        return {"text": text.clamp(min=0), "labels": text, "index": torch.tensor(indices)}

    def count_items(self, batch):
        return int((batch["labels"][:, 1:] != IGNORED).sum())

    def loss_sum(self, model, batch):
        self._obey()
        self._ledger.feed(batch["index"])
        return self._loss(model, batch)

    def metric_sums(self, model, batch):
        return {"loss": float(self._loss(model, batch))}

    def save_files(self, model, folder):
        (folder / "alphabet.txt").write_text("".join(self._alphabet), encoding="utf-8")

    def _loss(self, model, batch):
        guesses = model(batch["text"])[:, :-1]
        labels = batch["labels"][:, 1:]
        return cross_entropy(guesses.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")

    def _obey(self):
        """Between two slices: print, let an allocation fail, or take the device's memory for some slices."""
        self._neighbour_stays -= 1
        if self._neighbour_stays <= 0:
            self._neighbour = None
        if not self._orders.exists():
            return
        order = json.loads(self._orders.read_bytes())
        self._orders.unlink()
        if "flood_mib" in order:
            sys.stdout.writelines([FLOOD_LINE] * (order["flood_mib"] * 1024))
        if "fail_in" in order:
            NativeLimiter(compile_allocator()).fail_in(order["fail_in"])
        if "neighbour_bytes" in order:
            self._neighbour_stays = order["slices"]
            self._neighbour = torch.empty(order["neighbour_bytes"], dtype=torch.uint8)


def reader(options, config):
    """What the config names."""
    return Reading(**options)

"""A training loop of your own under memdash: a small GRU learns to spell from paragraphs of Python's own manual.

    memdash run -- python examples/own_loop.py --epochs 4

Everything that has to do with memdash is in lines with `session`. Without memdash they do nothing, and it trains all the same.
"""

import argparse
import os
import pydoc_data.topics
import signal
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

import memdash
from memdash import wire
from memdash.agent.memory import cuda_memory, no_device

GLOBAL_BATCH = 16


class Speller(nn.Module):
    def __init__(self, characters):
        super().__init__()
        self.embed = nn.Embedding(characters, 32)
        self.gru = nn.GRU(32, 128, batch_first=True)
        self.head = nn.Linear(128, characters)

    def forward(self, text):
        return self.head(self.gru(self.embed(text))[0])


class Trainer:
    def __init__(self, options):
        torch.manual_seed(0)
        paragraphs = [text[:400] for topic in pydoc_data.topics.topics.values() for text in topic.split("\n\n")]
        self.texts = [torch.tensor(list(text.encode("ascii", "replace"))) for text in paragraphs if len(text) > 40]
        self.texts = self.texts[: options.examples]
        # The order of examples depends on seed and epoch alone: any attempt can go on in the middle of it.
        shuffled = [torch.randperm(len(self.texts)).tolist() for _ in range(options.epochs)]
        self.groups = [order[i : i + GLOBAL_BATCH] for order in shuffled for i in range(0, len(order), GLOBAL_BATCH)]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = Speller(128).to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=options.lr)

        reader = (
            cuda_memory()
            if self.device.type == "cuda"
            else no_device("trained on the CPU: host memory is all there is")
        )
        self.session = session = memdash.Session(read_memory=reader)
        self.micro_batch = session.asked_micro_batch or options.micro_batch  # asked: the last attempt ran out of memory
        self.caps = {}  # step -> micro-batch
        self.folder = Path(session.run_dir or "own-loop", "checkpoints")
        session.on(wire.SetBatchSplit, self.split)
        session.on(wire.CapStep, self.cap)
        session.on(wire.SaveCheckpoint, lambda command: self.save(command.kind, command.reason))
        signal.signal(
            signal.SIGTERM, lambda *_: session.request_stop()
        )  # from elsewhere: memdash asks through `end_step`

    def train(self):
        session, first = self.session, self.load() if self.session.attempt else 0
        session.start(
            total_steps=len(self.groups),
            start_step=first,
            steps_per_epoch=-(-len(self.texts) // GLOBAL_BATCH),
            num_examples=len(self.texts),
            global_batch=GLOBAL_BATCH,
            micro_batch=self.micro_batch,
            num_parameters=sum(weight.numel() for weight in self.model.parameters()),
            model="speller",
            device=str(self.device),
            item_name="characters",
        )
        longest = [max(group, key=lambda i: len(self.texts[i])) for group in self.groups[first:]]
        session.coming([len(self.texts[i]) for i in longest], longest)
        for step, group in enumerate(self.groups[first:], first + 1):
            began_s = time.perf_counter()
            micro_batch = self.caps.pop(step, self.micro_batch)
            loss, characters = self.step(group, micro_batch)
            going = session.end_step(
                loss=loss,
                step_time_s=time.perf_counter() - began_s,
                examples_seen=step * GLOBAL_BATCH,
                micro_batch=micro_batch,
                grad_accum_steps=-(-GLOBAL_BATCH // micro_batch),
                num_items=characters,
                longest=max(len(self.texts[i]) for i in group),
            )
            if step % 50 == 0:
                print(f"step {step} loss {loss:.3f}", flush=True)
            if not going:
                break
            if step % 100 == 0:
                self.save("full", "schedule")
        session.finish()

    def step(self, group, micro_batch):
        """The same gradient whatever the micro-batch: a sum over slices, divided by what the whole group holds."""
        characters = sum(len(self.texts[i]) - 1 for i in group)
        total = 0.0
        for at in range(0, len(group), micro_batch):
            texts = [self.texts[i] for i in group[at : at + micro_batch]]
            batch = pad_sequence(texts, batch_first=True).to(self.device)  # 0 = padding
            logits = self.model(batch[:, :-1]).flatten(0, 1)
            loss = cross_entropy(logits, batch[:, 1:].flatten(), ignore_index=0, reduction="sum") / characters
            loss.backward()
            total += loss.item()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total, characters

    def split(self, command):
        self.micro_batch = command.micro_batch
        return f"micro-batch {self.micro_batch} from the next step on"

    def cap(self, command):
        self.caps[command.step] = command.micro_batch
        return f"step {command.step} will be done at micro-batch {command.micro_batch}"

    def save(self, kind, reason):
        """Complete or absent: written beside, synced, renamed. `light` is the weights, `full` all that a resume needs."""
        began_s, path = time.perf_counter(), self.folder / f"{kind}.pt"
        state = {"model": self.model.state_dict()}
        if kind == "full":
            state |= {"optimizer": self.optimizer.state_dict(), "step": self.session.step}
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".tmp")
        with open(fresh, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        took_s = time.perf_counter() - began_s
        self.session.checkpoint_saved(kind, str(path), path.stat().st_size, took_s, reason)
        return f"saved {path.name} of step {self.session.step}"

    def load(self):
        """The steps that are done: those of the last full checkpoint, or none."""
        path = self.folder / "full.pt"
        if not path.exists():
            return 0
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        print(f"attempt {self.session.attempt} goes on after step {state['step']}", flush=True)
        return state["step"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--examples", type=int, default=800)
    parser.add_argument("--micro-batch", type=int, default=16)
    Trainer(parser.parse_args()).train()

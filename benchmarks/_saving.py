"""The child of `checkpoint`: builds a model with its AdamW state and saves it in one way, when it is told to.

    python -m benchmarks._saving stall METHOD SIZE FOLDER DEVICE KIND...    a few saves of each kind, measured from outside
    python -m benchmarks._saving kill METHOD SIZE FOLDER TRIALS             full saves that are killed half-way

It prints one JSON line when it is ready, waits for a line on its standard input, saves, prints another, waits again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM

from memdash.checkpoints import choose
from memdash.config import DeviceSection, TrainSection
from memdash.errors import MemdashError
from memdash.wire import CheckpointKind
from runner.checkpoint import CheckpointStore
from runner.device import open_device, trim_host_memory
from runner.optimizer import make_optimizer
from runner.randomness import RngState
from runner.tensorfile import unique_tensors
from runner.training_state import Progress, TrainingState

SIZES: dict[str, dict[str, int]] = {
    "base": {},  # BERT-base is what an empty BertConfig describes
    "small": {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024},
    "tiny": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256},
}


HALF = "light-fp16"
SAVES = 3  # the fastest counts: what else the machine does only ever makes one slower


def build(size: str, kind: Literal["cpu", "cuda"]) -> TrainingState:
    """A state as after some steps: moments that are there and not zero, so that their memory is really taken."""
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(**SIZES[size]))  # type: ignore[arg-type]
    device = open_device(DeviceSection(kind=kind))
    device.start()
    device.place(model)
    optimizer = make_optimizer(model, TrainSection())
    for entry in optimizer.state.values():
        for name in ("exp_avg", "exp_avg_sq"):
            entry[name].uniform_()  # made where its parameter is
    return TrainingState(model, optimizer, Progress(), device)


@dataclass
class Saver:
    """One way to save; `save` may be called again, `load` raises when nothing whole is there."""

    state: TrainingState
    kind: CheckpointKind
    folder: Path
    cast: torch.dtype | None = None
    """What the weights of a light checkpoint are cast to; only ours can."""

    def save(self) -> None:
        """Write a checkpoint."""
        raise NotImplementedError

    def make_durable(self) -> None:
        """What is missing for the checkpoint to survive a power cut."""
        for path in self.folder.iterdir():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    def load(self) -> None:
        """Read the newest one back. Raises when there is none that is whole."""
        raise NotImplementedError

    def size_bytes(self) -> int:
        """Of the newest on disk."""
        newest = max(self.folder.iterdir(), key=lambda path: (path.is_dir(), path.name))
        files = newest.rglob("*") if newest.is_dir() else [newest]
        return sum(path.stat().st_size for path in files)


class Ours(Saver):
    """As runner/loop.py saves."""

    def save(self) -> None:
        """Staged, hashed, synced, renamed."""
        self.state.progress.step += 1
        store = CheckpointStore(self.folder, keep_last=1)
        rng = RngState.capture()
        need = self.state.need_bytes(self.kind, self.cast)
        step = self.state.progress.step
        write = self.state.write
        fill = partial(write, kind=self.kind, rng=rng, facts={}, cast=self.cast)
        store.remove_old(store.save(self.kind, step, "schedule", need, fill))

    def make_durable(self) -> None:
        """It is."""

    def load(self) -> None:
        """Every hash is checked."""
        choose(self.folder, "latest", [self.kind])


class TorchSave(Saver):
    """`torch.save(state, path)`, over the one before, as most training scripts do."""

    def save(self) -> None:
        """One call."""
        model = self.state.model.state_dict()
        full = {"model": model, "optimizer": self.state.optimizer.state_dict(), "rng": torch.get_rng_state()}
        torch.save(full if self.kind == "full" else model, self.folder / "checkpoint.pt")

    def load(self) -> None:
        """As it should be loaded."""
        torch.load(self.folder / "checkpoint.pt", weights_only=True)


class SaveFile(Saver):
    """`safetensors.torch.save_file(tensors, path)`, over the one before."""

    def save(self) -> None:
        """Tied tensors once, as save_file demands."""
        tensors = dict(self.state.model.state_dict())
        if self.kind == "full":
            for index, entry in self.state.optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in entry.items()}
        save_file(unique_tensors(tensors)[0], self.folder / "checkpoint.safetensors")

    def load(self) -> None:
        """All of it."""
        load_file(self.folder / "checkpoint.safetensors")


METHODS: dict[str, type[Saver]] = {"ours": Ours, "torch.save": TorchSave, "safetensors save_file": SaveFile}


def stall(saver: Saver) -> None:
    """A few saves after the parent has looked at this process's memory."""
    trim_host_memory()
    say({"state_bytes": saver.state.need_bytes(saver.kind)})
    sys.stdin.readline()
    costs = []
    for _ in range(SAVES):
        wall_s, cpu_s = _timed(saver.save)
        durable_s, _ = _timed(saver.make_durable)  # also, nothing of it slows the next one down
        costs.append((wall_s, cpu_s, wall_s + durable_s))
    stall_s, cpu_s, durable_s = map(min, zip(*costs, strict=True))
    say({"stall_s": stall_s, "cpu_s": cpu_s, "durable_s": durable_s, "size_bytes": saver.size_bytes()})
    sys.stdin.readline()  # the parent reads the peak before anything else is done


def kill(saver: Saver, trials: int) -> None:
    """Save in a fork, kill it at moments spread over the time that a save takes, see whether one can be loaded."""
    say({})
    sys.stdin.readline()
    killed = survived = 0
    for trial in range(trials):
        saver.save()
        whole_s, _ = _timed(saver.save)
        killed_in_time = _killed_after(whole_s * (trial + 0.5) / trials, saver.save)
        killed += killed_in_time
        survived += killed_in_time and _is_whole(saver)
    say({"killed": killed, "survived": survived})


def _killed_after(delay_s: float, work: Callable[[], None]) -> bool:
    """Whether the kill came before the work was done."""
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    time.sleep(delay_s)
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def _is_whole(saver: Saver) -> bool:
    try:
        saver.load()
    except (MemdashError, OSError, RuntimeError, ValueError, EOFError) as error:
        print(f"{type(saver).__name__}: {type(error).__name__}: {str(error)[:100]}", file=sys.stderr)
        return False
    return True


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    wall_s, cpu_s = time.monotonic(), time.process_time()
    work()
    return time.monotonic() - wall_s, time.process_time() - cpu_s


def say(message: dict[str, Any]) -> None:
    """One line for the parent."""
    print(json.dumps(message), flush=True)


def main(what: str, method: str, size: str, folder: str, more: str, *kinds: str) -> None:
    """See the top of this file."""
    torch.set_num_threads(1)
    state = build(size, "cuda" if more == "cuda" else "cpu")
    if what == "kill":
        kill(METHODS[method](state, "full", Path(folder)), int(more))
    for kind in kinds:
        own = Path(folder) / kind
        own.mkdir()
        cast = torch.float16 if kind == HALF else None
        stall(METHODS[method](state, "full" if kind == "full" else "light", own, cast))
        shutil.rmtree(own)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A whole run in this process, on the simulated device, with what it held and what it said: for the tests of strategies."""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memdash.agent.session import Session
from memdash.config_file import parse_config
from runner.launch import prepare
from runner.loop import Loop
from runner.simulated import SimulatedDevice
from runner.spec import Spec
from runner.training_state import STATE, WEIGHTS, _read

LAYERS = 4
BERT = {
    "hidden_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 64,
}


class Listening(Session):
    """Keeps the peak of each step, what was reported of it, and what went into the journal."""

    def __init__(self) -> None:
        super().__init__()
        self.before_bytes = 0
        """What other runs of the same test hold."""
        self.peaks: list[int] = []
        self.reports: list[dict[str, Any]] = []
        self.notices: list[str] = []

    def end_step(self, **report: Any) -> bool:
        assert self.read_memory is not None
        memory = self.read_memory()
        self.peaks.append((memory.peak_allocated_bytes or 0) - self.before_bytes)
        self.reports.append(report)
        return super().end_step(**report)

    def notice(self, text: str, *, level: str = "info") -> None:
        self.notices.append(text)


@dataclass
class Trial:
    """What a run came to."""

    loop: Loop
    session: Listening
    run_dir: Path
    start_bytes: int
    """Weights and optimizer state, before the first step."""
    end_bytes: int
    """The same, and what the steps have left."""

    @property
    def peak_bytes(self) -> int:
        """The most that the steps held."""
        return max(self.session.peaks)

    @property
    def losses(self) -> list[float]:
        """Of every step."""
        return [report["loss"] for report in self.session.reports]

    @property
    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers as they are now."""
        return {name: tensor.detach().clone() for name, tensor in self.loop._state.model.state_dict().items()}

    @property
    def state_bytes(self) -> int:
        """Of the optimizer's tensors."""
        return sum(t.numel() * t.element_size() for t in self.loop._state._optimizer_tensors().values())


def run(run_dir: Path, resume: str = "", **sections: Any) -> Trial:
    """Train a small BERT on made-up texts as a config asks; torch's own allocator is back afterwards."""
    table: dict[str, Any] = {
        "model": {"config": BERT},
        "data": {"source": str(texts(run_dir.parent)), "max_length": 32, "vocab_size": 200},
        "train": {"global_batch": 8, "max_steps": 4, "threads": 1, "learning_rate": 1e-3},
        "device": {"kind": "simulated", "capacity": "2GiB"},
        "checkpoint": {"at_end": "full"},
    }
    for section, keys in sections.items():
        table[section] = {**table.get(section, {}), **keys}
    run_dir.mkdir(exist_ok=True)
    session = Listening()
    session.before_bytes = before_bytes = allocated_bytes()
    loop = prepare(Spec(parse_config(table, base=run_dir.parent), run_dir, run_dir.parent, resume), session)
    device = loop._state.device
    assert isinstance(device, SimulatedDevice)
    try:
        start_bytes = (device.read_memory().allocated_bytes or 0) - before_bytes
        loop.run()
        gc.collect()
        end_bytes = (device.read_memory().allocated_bytes or 0) - before_bytes
        return Trial(loop, session, run_dir, start_bytes, end_bytes)
    finally:
        device.stop()


def texts(folder: Path) -> Path:
    """40 texts of 3 to 29 words that follow each other in the same order everywhere."""
    words = "the run that was out of memory went on in smaller slices and lost no example".split()
    lines = []
    for number in range(40):
        chosen = [words[(number + place) % len(words)] for place in range(3 + number * 7 % 27)]
        lines.append(json.dumps({"text": " ".join(chosen)}))
    path = folder / "texts.jsonl"
    path.write_text("\n".join(lines))
    return path


def allocated_bytes() -> int:
    """What tensors of simulated devices hold in this process."""
    gc.collect()
    device = SimulatedDevice(1 << 40)
    device.start()
    try:
        return device.read_memory().allocated_bytes or 0
    finally:
        device.stop()


def assert_same_checkpoint(left: Trial, right: Trial) -> None:
    """Weights, optimizer and generators of the last full checkpoints, to the bit."""
    for file in (WEIGHTS, STATE):
        tensors = [
            _read(max((trial.run_dir / "checkpoints").glob("step-*-full")) / file, "") for trial in (left, right)
        ]
        assert tensors[0].keys() == tensors[1].keys()
        assert not [name for name, tensor in tensors[0].items() if not torch.equal(tensor, tensors[1][name])]

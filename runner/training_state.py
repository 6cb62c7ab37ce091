"""What is inside a checkpoint: weights that `from_pretrained` can load and, in a full one, all that an exact resume needs.

model.safetensors     parameters and buffers                      light and full
training.json         progress, split, growth, fingerprint        light and full (loss scale: full)
config.json, ...      what the task adds, such as its tokenizer   light and full
state.safetensors     optimizer moments, generators as bytes      full
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from memdash.errors import CheckpointIncomplete, UsageError
from memdash.wire import CheckpointKind
from runner.checkpoint import Staging
from runner.device import Device
from runner.in_backward import InBackward
from runner.precision import Precision
from runner.randomness import RngState
from runner.tensorfile import size_bytes, write_tensors

if TYPE_CHECKING:
    from torch.optim import Optimizer

WEIGHTS, STATE, TRAINING = "model.safetensors", "state.safetensors", "training.json"
CONFIG = "config.json"  # of transformers, written by the task


@dataclass
class Progress:
    """How far a run has come; counts committed groups only."""

    step: int = 0
    epoch: int = 0
    position: int = 0
    """Examples of this epoch that are committed."""
    examples_seen: int = 0
    evaluated_at: int = -1
    """The step after which the last evaluation was finished."""
    best: float | None = None
    """Of the metric that early stopping watches."""
    best_step: int = 0
    evaluations_since_best: int = 0


@dataclass
class TrainingState:
    """All that changes while a run trains."""

    model: nn.Module
    optimizer: Optimizer
    progress: Progress
    device: Device
    precision: Precision = field(default_factory=Precision)
    in_backward: InBackward | None = None
    """Where the update is part of the backward."""

    def need_bytes(self, kind: CheckpointKind, cast: torch.dtype | None = None) -> int:
        """Disk space for a checkpoint."""
        tensors = size_bytes(self.model.state_dict(), cast)
        return tensors + (size_bytes(self._optimizer_tensors()) if kind == "full" else 0)

    def write(
        self,
        staging: Staging,
        kind: CheckpointKind,
        rng: RngState,
        facts: dict[str, Any],
        cast: torch.dtype | None = None,
    ) -> None:
        """Fill a checkpoint directory, one tensor at a time; no second copy of the model is made anywhere.

        `cast` is the type of floating-point weights on disk; None = as they are.
        """
        host, weights = self.device.host, self.model.state_dict()
        staging.write(WEIGHTS, lambda write: write_tensors(write, weights, host, cast))
        _declare_dtype(staging.path / CONFIG, weights, cast)
        training = {"progress": asdict(self.progress), **facts}
        if kind == "full":
            with host():
                generators = {f"rng.{name}": state for name, state in rng.tensors().items()}
            tensors = generators | self._optimizer_tensors() | self._passing_buffers()
            staging.write(STATE, lambda write: write_tensors(write, tensors, host))
            training["rng"] = rng.scalars()
            training["precision"] = self.precision.save()
        staging.write_json(TRAINING, training)

    def load_weights(self, path: Path) -> None:
        """Weights and progress, for a warm start. Raises UsageError when they are those of another model."""
        with self.device.host():
            _copy_into(self.model.state_dict(), path / WEIGHTS)
        try:
            self.progress = Progress(**read_training(path)["progress"])
        except (KeyError, TypeError) as error:
            raise CheckpointIncomplete(f"{path.name}: {TRAINING} is not ours: {error}") from None

    def load_all(self, path: Path) -> None:
        """Everything, for an exact resume; the generators last. Raises UsageError, CheckpointIncomplete."""
        self.load_weights(path)
        with self.device.host():
            _copy_into(self._optimizer_tensors() | self._passing_buffers(), path / STATE, others="rng.")
            generators = {name.removeprefix("rng."): t for name, t in _read(path / STATE, "rng.").items()}
            training = read_training(path)
            try:
                self.precision.load(training["precision"])
                RngState.from_saved(generators, training["rng"]).restore()
            except (KeyError, TypeError, ValueError) as error:
                raise CheckpointIncomplete(f"{path.name}: {TRAINING} is not ours: {error}") from None

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        return {
            f"optimizer.{names[id(parameter)]}.{key}": tensor
            for parameter, entry in self.optimizer.state.items()
            for key, tensor in entry.items()
        }

    def _passing_buffers(self) -> dict[str, Tensor]:
        """Buffers that a state dict leaves out; most are constants, but some models count in them."""
        known = self.model.state_dict().keys()
        return {f"buffer.{name}": buffer for name, buffer in self.model.named_buffers() if name not in known}


def read_training(path: Path) -> dict[str, Any]:
    """The scalars of a checkpoint. Raises CheckpointIncomplete."""
    try:
        training = json.loads((path / TRAINING).read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointIncomplete(f"{path.name}: {TRAINING} cannot be read: {error}") from None
    if not isinstance(training, dict):
        raise CheckpointIncomplete(f"{path.name}: {TRAINING} is not ours")
    return training


def _declare_dtype(path: Path, weights: Mapping[str, Tensor], cast: torch.dtype | None) -> None:
    """Let a transformers config say what the weights beside it are: `from_pretrained` goes by it."""
    dtype = cast or next((tensor.dtype for tensor in weights.values() if tensor.is_floating_point()), None)
    if dtype is None or not path.is_file():
        return
    table = json.loads(path.read_bytes())
    if "model_type" in table:
        table["dtype"] = str(dtype).removeprefix("torch.")
        path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def _read(path: Path, prefix: str) -> dict[str, Tensor]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}


@torch.no_grad()
def _copy_into(targets: Mapping[str, Tensor], path: Path, others: str = "") -> None:
    """Fill `targets` from a file, tensor by tensor; the file must hold exactly these, and perhaps `others`."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        aliases: dict[str, str] = json.loads((file.metadata() or {}).get("aliases", "{}"))
        names = set(file.keys()) | set(aliases)
        names -= {name for name in names if others and name.startswith(others)}
        if names != set(targets):
            odd = sorted(names ^ set(targets))
            raise UsageError(f"{path}: is a checkpoint of another model: {len(odd)} tensors differ, such as {odd[0]}")
        for name, target in targets.items():
            if name in aliases:
                continue
            tensor = file.get_tensor(name)
            if tensor.shape != target.shape:
                shapes = f"{tuple(tensor.shape)} there, {tuple(target.shape)} here"
                raise UsageError(f"{path}: is a checkpoint of another model: {name} is {shapes}")
            target.copy_(tensor)

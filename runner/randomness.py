"""Everything random about a run: pure seeds for order and masks, and the generators that dropout draws from."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def mix(*parts: int | str) -> int:
    """One 63-bit seed from several values, the same in every process."""
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def permutation(count: int, *seed: int | str) -> list[int]:
    """The order of `count` examples as a function of the seed alone; the global generators are not touched."""
    generator = torch.Generator().manual_seed(mix(*seed))
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return order


def seed_everything(seed: int) -> None:
    """Start the global generators, which initial weights and dropout draw from."""
    random.seed(mix(seed, "python"))
    np.random.seed(mix(seed, "numpy") % 2**32)
    torch.manual_seed(seed)


@dataclass(frozen=True)
class RngState:
    """The global generators at one moment. Capture it in the device's host scope."""

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    cpu: Tensor
    cuda: tuple[Tensor, ...]

    @classmethod
    def capture(cls) -> RngState:
        """Read all generators that a model could draw from."""
        numpy_state = np.random.get_state(legacy=False)
        assert isinstance(numpy_state, dict)
        cuda = tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
        return cls(random.getstate(), numpy_state, torch.get_rng_state(), cuda)

    def restore(self) -> None:
        """Set them back."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(list(self.cuda))

    def tensors(self) -> dict[str, Tensor]:
        """The bulk of it as byte tensors."""
        key = np.ascontiguousarray(self.numpy["state"]["key"])
        states = {"torch": self.cpu, "numpy": torch.from_numpy(key.view(np.uint8).copy())}
        return states | {f"cuda{index}": state for index, state in enumerate(self.cuda)}

    def scalars(self) -> dict[str, Any]:
        """The rest of it as JSON."""
        numpy = {name: value for name, value in self.numpy.items() if name != "state"}
        return {"python": self.python, "numpy": numpy | {"pos": self.numpy["state"]["pos"]}}

    @classmethod
    def from_saved(cls, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> RngState:
        """What `tensors` and `scalars` gave."""
        version, internal, gauss = scalars["python"]
        numpy = dict(scalars["numpy"])
        key = tensors["numpy"].numpy().view(np.uint32)
        numpy["state"] = {"key": key, "pos": numpy.pop("pos")}
        cuda = tuple(tensors[f"cuda{index}"] for index in range(len(tensors) - 2))
        return cls((version, tuple(internal), gauss), numpy, tensors["torch"], cuda)

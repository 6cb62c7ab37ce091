"""A script of anybody's with a real torch DataLoader: `grow` in a worker until the kernel ends it, or fill `/dev/shm`."""

from __future__ import annotations

import sys

import torch
from torch.utils.data import DataLoader, Dataset

from tests.programs.fake_rank import grow


class Examples(Dataset[torch.Tensor]):
    """Sixty-four of 4 MiB each; with `grow`, the ninth takes all the memory there is."""

    def __init__(self, mode: str) -> None:
        self._mode = mode

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._mode == "grow" and index == 8:
            grow()
        return torch.ones(1 << 20)


def main() -> None:
    """Load everything once."""
    for batch in DataLoader(Examples(sys.argv[1]), batch_size=8, num_workers=2):
        print(batch.shape, flush=True)


if __name__ == "__main__":
    main()

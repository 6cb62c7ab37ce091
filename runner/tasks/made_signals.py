"""Signals that are made, not read: like EEG in shape and spectrum, with texts that can be learned from them.

Example i is a function of (seed, i), so that a data set of any size needs no disk and no memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

WORDS = tuple(
    "a the one two small large old new red green dog cat house river runs sees finds holds under over near far fast slow".split()
)
SOURCES = 24  # that all channels are mixtures of, as the cortex under a cap of electrodes
SPECTRUM = 1.7  # the power of a source falls as 1 / f^1.7
MEDIAN_STD, SIGMA_STD = 12.0, 0.5  # of a channel: log-normal over the channels
PATTERN = 1.5  # how much a word adds to a channel, in that channel's own standard deviations
SENSOR_NOISE = 0.1  # of each channel for itself, in the same
SHARED = 2**32  # beside the seed, where an example has its index: what all examples have in common


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How large the data set is; the fields are `task.options`."""

    examples: Annotated[int, msgspec.Meta(ge=2)] = 256
    channels: Annotated[int, msgspec.Meta(ge=1)] = 105
    timesteps: Annotated[int, msgspec.Meta(ge=8)] = 5500
    longest_text: Annotated[int, msgspec.Meta(ge=2)] = 6
    """Words of a text: from 2 to so many."""


@dataclass(frozen=True)
class MadeSignals:
    """The data set of one seed and shape."""

    seed: int
    shape: Shape

    def text(self, index: int) -> str:
        """Some words."""
        return " ".join(WORDS[number] for number in self._numbers(self._generator(index)))

    def signal(self, index: int) -> Floats:
        """(channels, timesteps): background of all sources, and the pattern of each word in its share of the time."""
        generator = self._generator(index)
        numbers = self._numbers(generator)
        noise = generator.standard_normal((self.shape.channels, self.shape.timesteps), dtype=np.float32)
        signal: Floats = self._mixing @ self._sources(generator)
        signal += SENSOR_NOISE * noise
        signal += self._patterns[numbers].T @ self._bumps(len(numbers))
        signal *= self._stds[:, None]
        return signal

    def _generator(self, index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed % SHARED, index])

    def _numbers(self, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        count = generator.integers(2, self.shape.longest_text + 1)
        return generator.integers(0, len(WORDS), size=count)

    def _sources(self, generator: np.random.Generator) -> Floats:
        """(SOURCES, timesteps) of standard deviation 1."""
        timesteps = self.shape.timesteps
        frequencies = np.arange(1, timesteps // 2 + 1)
        amplitude = np.concatenate([[0.0], frequencies ** (-SPECTRUM / 2)]).astype(np.float32)
        waves = generator.standard_normal((2, SOURCES, len(amplitude)), dtype=np.float32)
        sources = np.fft.irfft((waves[0] + 1j * waves[1]) * amplitude, n=timesteps)
        scaled: Floats = (sources / sources.std(axis=1, keepdims=True)).astype(np.float32)
        return scaled

    def _bumps(self, count: int) -> Floats:
        """(count, timesteps): one word after the other, each as long as the others, rising and falling smoothly."""
        place = np.linspace(0, count, self.shape.timesteps, endpoint=False)
        own = place[None, :] - np.arange(count)[:, None]
        return np.where((own >= 0) & (own < 1), np.sin(np.pi * own) ** 2, 0).astype(np.float32)

    @cached_property
    def _common(self) -> tuple[Floats, Floats, Floats]:
        generator = np.random.default_rng([self.seed % SHARED, SHARED])
        channels = self.shape.channels
        mixing = generator.standard_normal((channels, SOURCES))
        mixing /= np.linalg.norm(mixing, axis=1, keepdims=True)
        patterns = PATTERN * generator.standard_normal((len(WORDS), channels))
        stds = MEDIAN_STD * np.exp(SIGMA_STD * generator.standard_normal(channels))
        return mixing.astype(np.float32), patterns.astype(np.float32), stds.astype(np.float32)

    @property
    def _mixing(self) -> Floats:
        return self._common[0]

    @property
    def _patterns(self) -> Floats:
        return self._common[1]

    @property
    def _stds(self) -> Floats:
        return self._common[2]

"""Down-sampling of long signals: every n-th timestep, by default after a low-pass that removes what would alias (pure)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

HALF_WIDTH = 16  # of the filter on each side, in timesteps that are kept: wider is sharper and slower
CUTOFF = 0.84  # of the new Nyquist frequency, where the filter is at half: at 1.0 it has fallen by some 80 dB
KAISER_BETA = 8.0  # of the window: ripples below 80 dB


def kept(timesteps: int, factor: int) -> int:
    """How many of `timesteps` are left."""
    return -(-timesteps // factor)


def downsample(signal: Floats, factor: int, *, lowpass: bool) -> Floats:
    """(channels, timesteps) -> (channels, `kept(timesteps, factor)`), the first timestep always among them."""
    if factor == 1:
        return signal
    if not lowpass:
        return np.ascontiguousarray(signal[:, ::factor])
    half = HALF_WIDTH * factor
    taps = _lowpass(factor)
    # The ends go on at their last value: zeros beyond them would make a step that is not in the signal.
    padded = np.pad(signal, ((0, 0), (half, half)), mode="edge")
    span = factor * (kept(signal.shape[1], factor) - 1) + 1

    def shifted(by: int) -> Floats:
        part: Floats = padded[:, half + by : half + by + span : factor]
        return part

    result: Floats = shifted(0) * taps[0]
    pair = np.empty_like(result)
    for by in range(1, half + 1):  # the filter is symmetric, and only what is kept is computed
        np.add(shifted(-by), shifted(by), out=pair)
        pair *= taps[by]
        result += pair
    return result


@lru_cache(maxsize=4)
def _lowpass(factor: int) -> Floats:
    """One half of a windowed-sinc filter, its middle first; the whole of it sums to 1."""
    half = HALF_WIDTH * factor
    window = np.kaiser(2 * half + 1, KAISER_BETA)[half:]
    taps = np.sinc(np.arange(half + 1) * CUTOFF / factor) * window
    return np.asarray(taps / (2 * taps.sum() - taps[0]), dtype=np.float32)

"""Random convolutions over log-mels and contours: how they are drawn, and for which scale of the input.

As in ROCKET (Dempster et al. 2020, "Exceptionally fast and accurate time series classification using random
convolutional kernels"): thousands of kernels are drawn once, the same for every clip and corpus, and only a
model of their responses is learned. A kernel weights one to three smooth mel bands or contours, and runs over nine
frames, next to each other or up to four apart. Shape letters: F channels, K kernels, S taps.
"""

import functools

import numpy as np

from emoflax.audio.channels import TYPICAL, TYPICAL_MEL_DB

TAPS, DILATIONS = 9, (1, 1, 2, 3, 4)  # each kernel draws one of the dilations
FAR = 5.0  # typical deviations of a channel, at which values are clipped
_MOST_PARTS = 3
_WIDTHS = (1.5, 3.0, 6.0, 12.0)  # standard deviations of smooth mel bands, in bands of _OF_BANDS
_OF_BANDS = 64
_SEED = 20_202  # of the kernels


def typical(mels: int) -> tuple[np.ndarray, np.ndarray]:
    """Centre and deviation in speech of every channel, float32 [channels]: mel bands in dB, then contours."""
    centre, scale = np.transpose([TYPICAL_MEL_DB] * mels + list(TYPICAL.values())).astype(np.float32)
    return centre, scale


@functools.lru_cache(maxsize=4)
def draw(count: int, mels: int, changes: float = 0.7) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of the channels [channels, count] and of the taps [taps, count], each of length 1; dilations [count].

    Args:
      changes: the share of kernels whose taps add up to 0, which respond to changes only.
    """
    random = np.random.default_rng(_SEED)
    channel_FxK = np.stack([_mixture(random, mels) for _ in range(count)], axis=1)
    tap_SxK = random.normal(size=(TAPS, count))
    tap_SxK -= np.where(random.random(count) < changes, tap_SxK.mean(0), 0)
    tap_SxK /= np.linalg.norm(tap_SxK, axis=0)
    return channel_FxK.astype(np.float32), tap_SxK.astype(np.float32), random.choice(DILATIONS, count)


def _mixture(random: np.random.Generator, mels: int) -> np.ndarray:
    """One to three smooth mel bands or contours with random weights, [channels]."""
    weight_F = np.zeros(mels + len(TYPICAL))
    for _ in range(random.integers(1, _MOST_PARTS + 1)):
        if random.random() < 0.5:
            centre, width = random.uniform(0, mels - 1), random.choice(_WIDTHS) * mels / _OF_BANDS
            band = np.exp(-0.5 * ((np.arange(mels) - centre) / width) ** 2)
            weight_F[:mels] += random.normal() * band / np.linalg.norm(band)
        else:
            weight_F[random.integers(mels, len(weight_F))] += random.normal()
    return weight_F / np.linalg.norm(weight_F)

"""Statistics of random convolutions over a clip's log-mels and contours: functionals that nobody thought of.

As in ROCKET (Dempster et al. 2020, "Exceptionally fast and accurate time series classification using random
convolutional kernels"): thousands of kernels are drawn once, the same for every clip and corpus, and only what is
made of their statistics is learned: mean, deviation, and the share of time above three levels. A kernel weighs one to
three smooth mel bands or contours, and runs over nine frames, next to each other or up to four apart. About 8 ms for
2,000 kernels on a clip of 2 s.
"""

import functools

import numpy as np

from emoflax.clip import CONTOURS
from precompute import audio
from precompute.contours import averaged
from precompute.descriptors import Contours

MEL = {"window_ms": 64.0, "hop_ms": 32.0, "mels": 64, "fmin_hz": 50.0, "fmax_hz": 8_000.0}
_TAPS, _DILATIONS, _MOST_PARTS = 9, (1, 1, 2, 3, 4), 3
_WIDTHS = (1.5, 3.0, 6.0, 12.0)  # standard deviations of smooth mel bands, in mel bands
_LEVELS = (-0.7, 0.0, 0.7)  # of responses, whose typical deviation is 1
_SEED = 20_202  # of the kernels
_FAR = 5.0  # deviations; what is further off says no more than that

# Centre and deviation of each contour in speech, so that none drowns the others: roundings of what espeak-ng's voices
# give, so that no recording of a corpus has a say.
_MEL_DB = (-30.0, 18.0)
_TYPICAL = {
    "energy_db": (-24, 20), "loudness": (2, 1), "zero_crossings": (0.2, 0.15), "flux": (0.2, 0.15),
    "centroid": (10, 1), "bandwidth": (10, 1), "spectral_skew": (4, 4), "spectral_kurtosis": (3, 1),
    "entropy": (4.5, 1), "flatness": (-23, 10), "alpha_ratio": (-8, 10), "hammarberg": (14, 10), "low_share": (9, 10),
    "high_share": (-20, 15), "mid_share": (-4, 10), "slope_0_500": (40, 40), "slope_500_1500": (-20, 20),
    "slope_0_5000": (-3, 4), "rolloff_25": (9, 1), "rolloff_50": (9.5, 1), "rolloff_75": (10, 1), "rolloff_90": (11, 1),
    "mfcc_0": (-250, 80), "mfcc_1": (30, 30), "mfcc_2": (10, 20), "mfcc_3": (10, 20), "mfcc_4": (-10, 20),
    "mfcc_5": (-10, 15), "mfcc_6": (0, 15), "mfcc_7": (-10, 10), "mfcc_8": (0, 10), "mfcc_9": (0, 8), "mfcc_10": (0, 8),
    "mfcc_11": (0, 8), "mfcc_12": (0, 7), "mfcc_13": (0, 7), "mfcc_14": (0, 6), "harmonicity": (0.7, 0.3),
    "cpp": (0.3, 0.2), "voiced": (0.7, 0.4), "semitones": (28, 7), "hnr": (8, 5), "h1_h2": (0, 6), "h1_h3": (0, 12),
    "h1_a1": (-4, 9), "h1_a2": (8, 12), "h1_a3": (15, 10), "formant_1": (650, 500), "formant_2": (1800, 700),
    "formant_3": (3000, 500), "bandwidth_1": (150, 140), "bandwidth_2": (150, 140), "bandwidth_3": (180, 150),
}  # fmt: skip
_CENTRE, _SCALE = np.transpose([_MEL_DB] * MEL["mels"] + [_TYPICAL[name] for name in CONTOURS]).astype(np.float32)


def kernel_statistics(wave: np.ndarray, sample_rate_hz: int, measured: Contours, count: int) -> dict[str, float]:
    """Mean, deviation and share above each level of the responses of `count` kernels, by name `kernel<i>.<statistic>`.

    Args:
      wave: float32 [samples], full scale 1.0.
      measured: its contours.
    """
    logmel_TxM = audio.mel_db(wave, sample_rate_hz=sample_rate_hz, **MEL)
    x_TxF = np.concatenate([logmel_TxM, averaged(measured, MEL["hop_ms"], len(logmel_TxM))], axis=1)
    response_TxK = convolve(np.clip((x_TxF - _CENTRE) / _SCALE, -_FAR, _FAR), count)
    found = {"mean": response_TxK.mean(0), "std": response_TxK.std(0)}
    found |= {f"above{level:+g}": (response_TxK > level).mean(0) for level in _LEVELS}
    return {f"kernel{i}.{name}": value for name, of in found.items() for i, value in enumerate(of.tolist())}


def convolve(x_TxF: np.ndarray, count: int) -> np.ndarray:
    """float32 [frames, channels] -> responses [frames, count]; the first and the last frame go on beyond the ends."""
    channel_FxK, tap_SxK, dilation_K = draw(count)
    mixed_TxK = x_TxF @ channel_FxK
    response_TxK = np.zeros_like(mixed_TxK)
    for dilation in np.unique(dilation_K):
        own, reach = dilation_K == dilation, dilation * (_TAPS // 2)
        padded = np.pad(mixed_TxK[:, own], ((reach, reach), (0, 0)), mode="edge")
        response_TxK[:, own] = sum(
            padded[i * dilation : i * dilation + len(x_TxF)] * tap for i, tap in enumerate(tap_SxK[:, own])
        )
    return response_TxK


@functools.lru_cache(maxsize=2)
def draw(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of the channels [channels, count] and of the taps [taps, count], each of length 1; dilations [count]."""
    random = np.random.default_rng(_SEED)
    channel_FxK = np.stack([_mixture(random) for _ in range(count)], axis=1)
    tap_SxK = random.normal(size=(_TAPS, count))
    level = random.random(count) < 0.7  # the share of kernels that hear changes alone
    tap_SxK -= np.where(level, tap_SxK.mean(0), 0)
    tap_SxK /= np.linalg.norm(tap_SxK, axis=0)
    return channel_FxK.astype(np.float32), tap_SxK.astype(np.float32), random.choice(_DILATIONS, count)


def _mixture(random: np.random.Generator) -> np.ndarray:
    """One to three smooth mel bands or contours with random weights, [channels]."""
    weight_F, mels = np.zeros(len(_SCALE)), MEL["mels"]
    for _ in range(random.integers(1, _MOST_PARTS + 1)):
        if random.random() < 0.5:
            band = np.exp(-0.5 * ((np.arange(mels) - random.uniform(0, mels - 1)) / random.choice(_WIDTHS)) ** 2)
            weight_F[:mels] += random.normal() * band / np.linalg.norm(band)
        else:
            weight_F[random.integers(mels, len(_SCALE))] += random.normal()
    return weight_F / np.linalg.norm(weight_F)

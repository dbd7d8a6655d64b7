"""Statistics of random convolutions over a clip's log-mels and contours: functionals that nobody thought of.

Of each kernel's responses (`emoflax.audio.random_kernels`) over the clip: mean, deviation, and the share of time above
three levels. About 8 ms for 2,000 kernels on a clip of 2 s.
"""

import numpy as np

from emoflax.audio.random_kernels import FAR, TAPS, draw, typical
from emoflax.features.contours import averaged
from emoflax.features.descriptors import Contours
from emoflax.features.log_mel import mel_db

MEL = {"window_ms": 64.0, "hop_ms": 32.0, "mels": 64, "fmin_hz": 50.0, "fmax_hz": 8_000.0}
_LEVELS = (-0.7, 0.0, 0.7)  # of responses, whose typical deviation is 1
_CENTRE, _SCALE = typical(MEL["mels"])


def kernel_statistics(wave: np.ndarray, sample_rate_hz: int, measured: Contours, count: int) -> dict[str, float]:
    """Mean, deviation and share above each level of the responses of `count` kernels, by name `kernel<i>.<statistic>`.

    Args:
      wave: float32 [samples], full scale 1.0.
      measured: its contours.
    """
    logmel_TxM = mel_db(wave, sample_rate_hz=sample_rate_hz, **MEL)
    x_TxF = np.concatenate([logmel_TxM, averaged(measured, MEL["hop_ms"], len(logmel_TxM))], axis=1)
    response_TxK = convolve(np.clip((x_TxF - _CENTRE) / _SCALE, -FAR, FAR), count)
    found = {"mean": response_TxK.mean(0), "std": response_TxK.std(0)}
    found |= {f"above{level:+g}": (response_TxK > level).mean(0) for level in _LEVELS}
    return {f"kernel{i}.{name}": value for name, of in found.items() for i, value in enumerate(of.tolist())}


def convolve(x_TxF: np.ndarray, count: int) -> np.ndarray:
    """float32 [frames, channels] -> responses [frames, count]; the first and the last frame go on beyond the ends."""
    channel_FxK, tap_SxK, dilation_K = draw(count, MEL["mels"])
    mixed_TxK = x_TxF @ channel_FxK
    response_TxK = np.zeros_like(mixed_TxK)
    for dilation in np.unique(dilation_K):
        own, reach = dilation_K == dilation, dilation * (TAPS // 2)
        padded = np.pad(mixed_TxK[:, own], ((reach, reach), (0, 0)), mode="edge")
        response_TxK[:, own] = sum(
            padded[i * dilation : i * dilation + len(x_TxF)] * tap for i, tap in enumerate(tap_SxK[:, own])
        )
    return response_TxK

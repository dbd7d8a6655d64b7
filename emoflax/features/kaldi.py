"""Kaldi's log-mel filter bank, scaled as the Audio Spectrogram Transformer was trained on it (arXiv:2104.01778).

Equal to `transformers.ASTFeatureExtractor`, without its padding to 10 s.
"""

import functools

import numpy as np

SETTINGS = {"sample_rate_hz": (16_000,), "window_ms": (25.0,), "hop_ms": (10.0,)}
WINDOW, HOP, N_FFT, RATE_HZ = 400, 160, 512, 16_000
PREEMPHASIS = 0.97
FLOOR = 1.192092955078125e-07  # of a filter's power: float32's epsilon
MEAN, DEVIATION = -4.2677393, 4.5689974  # of AudioSet's log-mels; twice the deviation becomes 1


def fbank(wave: np.ndarray, *, mels: int, fmin_hz: float, fmax_hz: float, **_) -> np.ndarray:
    """float32 [samples] at 16 kHz -> float32 [1 + (samples - 400) // 160, mels], about -1.3 to 1.

    No frame reaches beyond the clip; clips shorter than a window are padded with zeros.
    """
    wave = np.pad(wave.astype(np.float64), (0, max(0, WINDOW - len(wave))))
    frames = np.lib.stride_tricks.sliding_window_view(wave, WINDOW)[::HOP]
    frames = frames - frames.mean(axis=1, keepdims=True)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)  # the first sample is its own predecessor
    power = np.abs(np.fft.rfft((frames - PREEMPHASIS * before) * np.hanning(WINDOW), N_FFT)) ** 2
    cells = np.log(np.maximum(power @ _filters(mels, fmin_hz, fmax_hz), FLOOR))
    return ((cells - MEAN) / (2 * DEVIATION)).astype(np.float32)


@functools.lru_cache(maxsize=2)
def _filters(mels: int, fmin_hz: float, fmax_hz: float) -> np.ndarray:
    """[frequencies, mels]: overlapping filters of equal height, each a triangle on the mel scale, not in Hz."""
    low, high = _mel(np.array([fmin_hz, fmax_hz]))
    edges = np.linspace(low, high, mels + 2)
    at = _mel(np.arange(N_FFT // 2 + 1) * RATE_HZ / N_FFT)[:, None]
    rising = (at - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - at) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling))


def _mel(hz: np.ndarray) -> np.ndarray:
    return 1127 * np.log(1 + hz / 700)

"""Spectrograms, mel filters and trimming as librosa defines them, without its import.

librosa imports numba and scipy.signal, 1.5 to 2 s in every process, half of what predicting one recording takes. These
functions give its numbers: to the last bit but for a few cells (tests/features/test_spectrum.py compares them).
"""

import functools

import numpy as np

_BLOCK = 4096  # frames that are transformed at once: an hour is never in memory as windows
_LINEAR_HZ, _KNEE_HZ, _STEP = 200 / 3, 1000.0, np.log(6.4) / 27.0  # Slaney's mel scale, as in `audio.frontend`
TRIM_FRAME, TRIM_HOP = 2048, 512  # samples


def power(wave: np.ndarray, *, n_fft: int, hop: int, window: int, pad_mode: str = "constant") -> np.ndarray:
    """float32 [samples] -> power spectrum float32 [1 + n_fft // 2, 1 + samples // hop], of windows around every hop.

    Equal to `np.abs(librosa.stft(...)) ** 2`.
    """
    padded = np.pad(wave, n_fft // 2, mode=pad_mode) if pad_mode != "constant" else _between_zeros(wave, n_fft // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, n_fft)[::hop]
    made = np.empty((1 + n_fft // 2, len(frames)), np.float32)
    for begin in range(0, len(frames), _BLOCK):
        block = frames[begin : begin + _BLOCK]
        spectrum = np.fft.rfft(block * _centred(window, n_fft), axis=1).astype(np.complex64)
        made[:, begin : begin + len(block)] = (np.abs(spectrum) ** 2).T
    return made


def padded_to(wave: np.ndarray, length: int) -> np.ndarray:
    """[samples] with zeros behind it up to that length, if it is shorter; np.pad in a tenth of its time."""
    if len(wave) >= length:
        return wave
    padded = np.zeros(length, wave.dtype)
    padded[: len(wave)] = wave
    return padded


def _between_zeros(wave: np.ndarray, zeros: int) -> np.ndarray:
    padded = np.zeros(len(wave) + 2 * zeros, wave.dtype)
    padded[zeros : zeros + len(wave)] = wave
    return padded


def hann(width: int) -> np.ndarray:
    """Periodic Hann window, float64 [width], as scipy.signal.get_window("hann", width)."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)


@functools.lru_cache(maxsize=4)
def _centred(window: int, n_fft: int) -> np.ndarray:
    """The Hann window in the middle of n_fft samples."""
    before = (n_fft - window) // 2
    return np.pad(hann(window), (before, n_fft - window - before))


def power_to_db(cells: np.ndarray, *, least: float, range_db: float) -> np.ndarray:
    """dB of full-scale power; powers under `least` and what is `range_db` under the largest are cut off there."""
    db = 10.0 * np.log10(np.maximum(least, cells))
    return np.maximum(db, db.max() - range_db)


@functools.lru_cache(maxsize=4)
def mel_filters(sample_rate_hz: int, n_fft: int, mels: int, fmin_hz: float, fmax_hz: float) -> np.ndarray:
    """Slaney's triangles of equal area, float32 [mels, 1 + n_fft // 2]; equal to librosa.filters.mel."""
    edges_hz = _to_hz(np.linspace(*(_to_mel(hz) for hz in (fmin_hz, fmax_hz)), mels + 2))
    distance = edges_hz[:, None] - np.fft.rfftfreq(n_fft, 1.0 / sample_rate_hz)[None]
    width_hz = np.diff(edges_hz)[:, None]
    triangles = np.maximum(0, np.minimum(-distance[:-2] / width_hz[:-1], distance[2:] / width_hz[1:]))
    area = 2.0 / (edges_hz[2:] - edges_hz[:-2])
    return (triangles.astype(np.float32) * area[:, None]).astype(np.float32)


def trim(wave: np.ndarray, trim_db: float) -> np.ndarray:
    """Cuts off both ends of float32 [samples] where they are trim_db below the loudest frame of 2048 samples.

    Equal to librosa.effects.trim.
    """
    return wave[slice(*trimmed_span(wave, trim_db))]


def trimmed_span(wave: np.ndarray, trim_db: float) -> tuple[int, int]:
    """First sample that `trim` leaves, and the one after the last."""
    padded = _between_zeros(wave, TRIM_FRAME // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, TRIM_FRAME)[::TRIM_HOP]
    blocks = (frames[begin : begin + _BLOCK] for begin in range(0, len(frames), _BLOCK))
    rms = np.sqrt(np.concatenate([np.mean(np.square(block), axis=1) for block in blocks]))
    db = 20 * np.log10(np.maximum(1e-5, rms)) - 20 * np.log10(max(1e-5, rms.max()))
    loud = np.flatnonzero(db > -trim_db)
    if not len(loud):
        return 0, 0
    return int(loud[0]) * TRIM_HOP, min(len(wave), (int(loud[-1]) + 1) * TRIM_HOP)


def _to_mel(hz: float) -> float:
    return hz / _LINEAR_HZ if hz < _KNEE_HZ else float(_KNEE_HZ / _LINEAR_HZ + np.log(hz / _KNEE_HZ) / _STEP)


def _to_hz(mel: np.ndarray) -> np.ndarray:
    knee = _KNEE_HZ / _LINEAR_HZ
    return np.where(mel >= knee, _KNEE_HZ * np.exp(_STEP * (mel - knee)), mel * _LINEAR_HZ)

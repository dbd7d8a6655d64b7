"""The log-mel spectrogram that Whisper was trained on (Radford et al. 2022, arXiv:2212.04356), by librosa."""

import numpy as np

from emoflax.features import spectrum

SETTINGS = {
    "sample_rate_hz": (16_000,), "window_ms": (25.0,), "hop_ms": (10.0,), "mels": (80, 128), "fmin_hz": (0.0,),
    "fmax_hz": (8_000.0,),
}  # fmt: skip
N_FFT, HOP, RATE_HZ = 400, 160, 16_000
RANGE = 2.0  # cells are clipped at this (80 dB) below the clip's loudest one
LOWEST = -1.5  # value of the lowest power, 1e-10
_TAIL = 3 * HOP  # after so much silence, no window reaches back into the clip


def log_mel(wave: np.ndarray, *, mels: int, **_) -> np.ndarray:
    """float32 [samples] at 16 kHz -> float32 [samples // 160 + 3, mels], about -1 to 1.5.

    Equal to the beginning of `whisper.log_mel_spectrogram` of the clip followed by silence, as in Whisper's windows of
    30 s. Every later frame there is silence and need not be stored: the clip's highest value minus `RANGE` or, after a
    quiet clip, `LOWEST`. Values depend on the clip's loudest cell, so parts of a clip give other values near silence.
    """
    wave = np.pad(wave, (0, _TAIL))
    power = spectrum.power(wave, n_fft=N_FFT, hop=HOP, window=N_FFT, pad_mode="reflect")[:, :-1]
    cells = np.log10(np.maximum(spectrum.mel_filters(RATE_HZ, N_FFT, mels, 0.0, RATE_HZ / 2) @ power, 1e-10))
    return np.ascontiguousarray((np.maximum(cells, cells.max() - 4 * RANGE).T + 4) / 4, np.float32)

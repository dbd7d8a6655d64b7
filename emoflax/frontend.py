"""Log-mels without an audio library."""

import numpy as np

UNIT_DB = {"librosa": 1.0, "whisper": 40.0}  # how many dB one unit of log-mels is; Whisper's are (log10 + 4) / 4

_LINEAR_HZ = 200 / 3  # below 1 kHz a mel is this wide
_KNEE_HZ, _KNEE_MEL = 1000.0, 15.0
_STEP = np.log(6.4) / 27  # above it, each mel multiplies the frequency by exp(this)


def band_edges_hz(mels: int, fmin_hz: float, fmax_hz: float) -> np.ndarray:
    """Edges of overlapping triangles, evenly spread over Slaney's mel scale: band i is between edges i and i + 2."""
    low, high = (
        hz / _LINEAR_HZ if hz < _KNEE_HZ else _KNEE_MEL + np.log(hz / _KNEE_HZ) / _STEP for hz in (fmin_hz, fmax_hz)
    )
    mel = np.linspace(low, high, mels + 2)
    return np.where(mel < _KNEE_MEL, mel * _LINEAR_HZ, _KNEE_HZ * np.exp(_STEP * (mel - _KNEE_MEL)))

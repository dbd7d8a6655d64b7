"""Slaney's mel scale without an audio library."""

import numpy as np

_LINEAR_HZ = 200 / 3  # below 1 kHz a mel is this wide
_KNEE_HZ, _KNEE_MEL = 1000.0, 15.0
_STEP = np.log(6.4) / 27  # above it, each mel multiplies the frequency by exp(this)


def band_edges_hz(mels: int, fmin_hz: float, fmax_hz: float) -> np.ndarray:
    """Edges of overlapping triangles, evenly spread over the mel scale: band i reaches from edge i to edge i + 2."""
    low, high = (
        hz / _LINEAR_HZ if hz < _KNEE_HZ else _KNEE_MEL + np.log(hz / _KNEE_HZ) / _STEP for hz in (fmin_hz, fmax_hz)
    )
    mel = np.linspace(low, high, mels + 2)
    return np.where(mel < _KNEE_MEL, mel * _LINEAR_HZ, _KNEE_HZ * np.exp(_STEP * (mel - _KNEE_MEL)))

"""Contours of the voice beside the mel bands: pitch, harmonicity, formants and slopes, which mel bands blur.

The contours of `descriptors.py`, 10 ms apart, are averaged over the time of each frame of the log-mel. Those defined in
voiced frames only are interpolated linearly through unvoiced ones, as is usual for pitch; 'voiced' is the voiced share
of the frame.
"""

import numpy as np

from emoflax.audio.channels import CONTOURS
from emoflax.features.descriptors import HOP_S, Contours, describe


def contours(wave: np.ndarray, sample_rate_hz: int, hop_ms: float, frames: int) -> np.ndarray:
    """float32 [samples], full scale 1.0 -> float32 [frames, contours], in the order of `CONTOURS`."""
    return averaged(describe(wave, sample_rate_hz), hop_ms, frames)


def averaged(measured: Contours, hop_ms: float, frames: int) -> np.ndarray:
    """The result of `describe`, averaged as in `contours`."""
    time = np.arange(len(measured.voiced))
    known = np.flatnonzero(measured.voiced) if measured.voiced.any() else time
    lines = measured.always | {"voiced": measured.voiced.astype(float)}
    lines |= {name: np.interp(time, known, values[known]) for name, values in measured.voice.items()}
    x_TxC = np.stack([lines[name] for name in CONTOURS], axis=1)
    step = hop_ms / 1000 / HOP_S  # times per frame
    edges = np.rint((np.arange(frames + 1) - 0.5) * step).astype(int)
    begin = np.clip(edges[:-1], 0, len(time) - 1)
    end = np.clip(edges[1:], begin + 1, len(time))
    total = np.cumsum(np.vstack([np.zeros(len(CONTOURS)), x_TxC]), axis=0)
    return ((total[end] - total[begin]) / (end - begin)[:, None]).astype(np.float32)

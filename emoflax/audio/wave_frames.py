"""The front end 'waveform': samples as they are, in frames, for encoders that take the sound itself. Without JAX."""

import numpy as np

WAVE_FRAME = 320  # samples of a frame: 20 ms at 16 kHz


def wave_frames(wave: np.ndarray) -> np.ndarray:
    """[samples] -> [frames, WAVE_FRAME]; the last frame is filled up with zeros."""
    return np.pad(wave, (0, -len(wave) % WAVE_FRAME)).reshape(-1, WAVE_FRAME)

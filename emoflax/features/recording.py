"""A recording as every feature takes it: mean removed, at one sample rate, speech at one level, silent ends cut off.

The one place between decoding and features, so that log-mels, contours, functionals and stored waveforms agree.
"""

import dataclasses

import numpy as np

from emoflax.features.conditions import measure
from emoflax.features.decode import digest, resample, trim
from emoflax.features.level import SPEECH_DB
from emoflax.features.untrusted import decode

LEVELS = ("normalised", "absolute")
FIELDS = ("sample_rate_hz", "trim_db", "level")  # of config.audio, that shape a waveform


@dataclasses.dataclass(frozen=True)
class Recording:
    """`wave`: float32 [samples]; `digest`: of these before level and trimming; `conditions`: how it was recorded."""

    wave: np.ndarray
    digest: str
    conditions: dict[str, float]

    @property
    def duration_s(self) -> float:
        """Before its ends were cut off."""
        return self.conditions["duration_s"]


def read(
    path: str, start_s: float = 0.0, end_s: float | None = None, *, sample_rate_hz: int, trim_db: float, level: str
) -> Recording:
    """A recording, or the part of it between start_s and end_s (None: the file's end).

    Args:
      level: 'normalised': the active speech level is `level.SPEECH_DB`, whatever the gain of the recording was;
        'absolute': as it was recorded.

    Raises:
      UserError: the recording cannot be used.
    """
    return of_samples(*decode(path, start_s, end_s), sample_rate_hz=sample_rate_hz, trim_db=trim_db, level=level)


def of_samples(samples: np.ndarray, rate_hz: int, *, sample_rate_hz: int, trim_db: float, level: str) -> Recording:
    """The same of decoded float32 [samples] at rate_hz."""
    resampled = at_rate(samples, rate_hz, sample_rate_hz)
    wave, measured = _levelled(resampled, sample_rate_hz, len(samples) / rate_hz, trim_db, level)
    return Recording(wave, digest(resampled), measured)


def shaped(
    samples: np.ndarray, rate_hz: int, *, sample_rate_hz: int, trim_db: float, level: str
) -> tuple[np.ndarray, dict[str, float]]:
    """`wave` and `conditions` of a `Recording`; a prediction needs no digest."""
    wave = at_rate(samples, rate_hz, sample_rate_hz)
    return _levelled(wave, sample_rate_hz, len(samples) / rate_hz, trim_db, level)


def at_rate(samples: np.ndarray, rate_hz: int, sample_rate_hz: int) -> np.ndarray:
    """Float32 [samples] at rate_hz -> float32 [samples] at sample_rate_hz without their mean."""
    return resample(samples - samples.mean(dtype=np.float64).astype(np.float32), rate_hz, sample_rate_hz)


def _levelled(
    wave: np.ndarray, sample_rate_hz: int, duration_s: float, trim_db: float, level: str
) -> tuple[np.ndarray, dict[str, float]]:
    measured = measure(wave, sample_rate_hz, duration_s)
    if level == "normalised":
        wave = wave * np.float32(10 ** ((SPEECH_DB - measured["level_db"]) / 20))
    return trim(wave, trim_db), measured

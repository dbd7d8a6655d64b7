"""What a page shows of a recording: a short piece to play, and its spectrogram, both inside the page."""

import base64
import dataclasses
import io
from typing import Any

import numpy as np

from emoflax.data.clip import Clip
from emoflax.errors import UserError
from emoflax.features import recording
from emoflax.features.log_mel import mel_db

MOST_S = 6.0  # of a clip, shown and played
_SPECTROGRAM: dict[str, float] = {"window_ms": 32.0, "hop_ms": 10.0, "mels": 48, "fmin_hz": 50.0, "fmax_hz": 8_000.0}
_PLAYED_HZ = 16_000  # Opus allows few rates
_PEAK = 0.5  # that sounds are scaled to: RAVDESS is recorded at -39 dB


@dataclasses.dataclass(frozen=True)
class Sound:
    """Data URIs of the beginning of a clip: its Opus ('': not to be played), and its spectrogram.

    `seconds`: how long both are; `whole_s`: how long the clip is.
    """

    opus: str
    spectrogram: str
    seconds: float
    whole_s: float


def of_clip(clip: Clip, *, trim_db: float, playable: bool) -> Sound | None:
    """The clip's first seconds without silence at the beginning; None where there is no recording any more.

    Args:
      trim_db: of config.audio, so that the time axis is that of the model's input.
    """
    if clip.path is None:
        return None
    try:
        wave = recording.read(
            clip.path, clip.start_s, clip.end_s, sample_rate_hz=_PLAYED_HZ, trim_db=trim_db, level="absolute"
        ).wave
    except UserError:
        return None
    if not len(wave):
        return None
    most = round(MOST_S * _PLAYED_HZ)
    shown = wave[:most]
    opus = _opus(shown) if playable else ""
    return Sound(opus, _spectrogram(shown), len(shown) / _PLAYED_HZ, len(wave) / _PLAYED_HZ)


def _opus(wave: np.ndarray) -> str:
    import soundfile

    file = io.BytesIO()
    loudest = float(np.abs(wave).max())
    soundfile.write(file, wave * (_PEAK / max(loudest, 1e-6)), _PLAYED_HZ, format="OGG", subtype="OPUS")
    return _data_uri("audio/ogg", file.getvalue())


def _spectrogram(wave: np.ndarray) -> str:
    """PNG of mel bands in dB, low ones below; a pixel for each band and 10 ms."""
    import matplotlib.image

    settings: dict[str, Any] = _SPECTROGRAM | {"sample_rate_hz": _PLAYED_HZ}
    file = io.BytesIO()
    matplotlib.image.imsave(file, mel_db(wave, **settings).T[::-1], format="png", cmap="magma")
    return _data_uri("image/png", file.getvalue())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"

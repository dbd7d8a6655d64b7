"""Recording -> log-mel spectrogram, or the waveform of which the device makes one; for training and prediction alike.

The waveform comes from `recording.py`; `FRONTENDS` are the ways from it to mel bands.
"""

import numpy as np

from emoflax.audio.wave_frames import WAVE_FRAME, wave_frames
from emoflax.errors import UserError
from emoflax.features import kaldi, spectrum, whisper_mel
from emoflax.features import recording as recordings
from emoflax.features.decode import change_speed

# Of the front end 'waveform': a frame is as many "mels" as it has samples.
WAVE_SETTINGS = {"sample_rate_hz": (16_000,), "window_ms": (20.0,), "hop_ms": (20.0,), "mels": (WAVE_FRAME,)}


def check_settings(
    *,
    frontend: str,
    sample_rate_hz: int,
    trim_db: float,
    level: str,
    window_ms: float,
    hop_ms: float,
    mels: int,
    fmin_hz: float,
    fmax_hz: float,
    contours: bool,
    speed: float = 1.0,
) -> None:
    """Raises UserError, naming the config field, for settings that do not define a spectrogram."""
    given = {
        "sample_rate_hz": sample_rate_hz, "window_ms": window_ms, "hop_ms": hop_ms, "mels": mels, "fmin_hz": fmin_hz,
        "fmax_hz": fmax_hz,
    }  # fmt: skip
    if level not in recordings.LEVELS:
        raise UserError(f"--config.audio.level must be one of: {', '.join(recordings.LEVELS)}.")
    if frontend not in FRONTENDS:
        raise UserError(f"--config.audio.frontend must be one of: {', '.join(FRONTENDS)}.")
    for field, allowed in FRONTENDS[frontend][1].items():
        if given[field] not in allowed:
            raise UserError(
                f"--config.audio.{field} must be {' or '.join(f'{value:g}' for value in allowed)} "
                f"with audio.frontend={frontend!r}."
            )
    if contours and (frontend != "librosa" or sample_rate_hz < 11_000):
        raise UserError(
            "--config.audio.contours needs audio.frontend='librosa' and a sample_rate_hz of at least 11000."
        )
    ranges = (
        ("sample_rate_hz", sample_rate_hz >= 1000, "at least 1000"),
        ("trim_db", trim_db >= 0, "0 (no trimming) or more"),
        ("window_ms", round(window_ms * sample_rate_hz / 1000) >= 2, "two samples or more"),
        ("hop_ms", round(hop_ms * sample_rate_hz / 1000) >= 1 and hop_ms <= window_ms, "above 0 and at most window_ms"),
        ("mels", mels >= 1, "at least 1"),
        ("fmin_hz", 0 <= fmin_hz < fmax_hz, "at least 0 and below fmax_hz"),
        ("fmax_hz", fmax_hz <= sample_rate_hz / 2, f"at most half the sample rate, {sample_rate_hz / 2:g}"),
    )
    for field, valid, allowed in ranges:
        if not valid:
            raise UserError(f"--config.audio.{field} must be {allowed}.")


def log_mel(
    path: str,
    start_s: float = 0.0,
    end_s: float | None = None,
    *,
    sample_rate_hz: int,
    trim_db: float,
    level: str,
    **settings,
) -> tuple[np.ndarray, recordings.Recording]:
    """Log-mel spectrogram of a recording, or of the part of it between start_s and end_s (None: the file's end).

    Args:
      settings: the other fields of config.audio, and the speed, as `of_wave` takes them.

    Returns:
      float32 [frames, channels]; the recording that they were made of.

    Raises:
      UserError: the recording cannot be used.
    """
    one = recordings.read(path, start_s, end_s, sample_rate_hz=sample_rate_hz, trim_db=trim_db, level=level)
    return of_wave(one.wave, sample_rate_hz=sample_rate_hz, **settings), one


def of_wave(
    wave: np.ndarray, *, frontend: str, sample_rate_hz: int, contours: bool, speed: float = 1.0, **settings: float
) -> np.ndarray:
    """float32 [samples] -> float32 [frames, channels], mels in the front end's unit.

    See `mel_db`, `kaldi.fbank` and `whisper_mel.log_mel` for the units.

    Args:
      frontend: a name from `FRONTENDS`.
      contours: whether `channels.CONTOURS` follow the mel bands of each frame.
      speed: see `decode.change_speed`.
      settings: window_ms, hop_ms, mels, fmin_hz, fmax_hz of config.audio.
    """
    wave = change_speed(wave, speed)
    frames = FRONTENDS[frontend][0](wave, sample_rate_hz=sample_rate_hz, **settings)
    if contours:
        from emoflax.features import contours as voice_contours  # with scipy.fft, whose import takes 0.2 s

        columns = voice_contours.contours(wave, sample_rate_hz, settings["hop_ms"], len(frames))
        frames = np.concatenate([frames, columns], axis=1)
    return frames


def in_16_bits(wave: np.ndarray) -> tuple[np.ndarray, float]:
    """float32 [samples] as it is stored: int16 [samples], and the factor that makes full scale 1.0 again.

    The largest peak is the largest integer, so that quiet recordings lose no more than loud ones.
    """
    scale = float(np.abs(wave).max()) / np.iinfo(np.int16).max
    return np.round(wave / np.float32(scale)).astype(np.int16), scale


def mel_db(
    wave: np.ndarray,
    *,
    sample_rate_hz: int,
    window_ms: float,
    hop_ms: float,
    mels: int,
    fmin_hz: float,
    fmax_hz: float,
) -> np.ndarray:
    """Log-mel spectrogram of float32 [samples]: float32 [1 + samples // hop, mels] in dB.

    Full-scale power is the reference, 80 dB below the clip's loudest cell the floor.

    Equal to librosa.feature.melspectrogram + power_to_db, but with the filters computed once instead of for each clip
    and one matrix product. Clips shorter than a window are padded
    with zeros.
    """
    window = round(window_ms * sample_rate_hz / 1000)
    hop = round(hop_ms * sample_rate_hz / 1000)
    n_fft = 1 << (window - 1).bit_length()
    wave = spectrum.padded_to(wave, n_fft)
    cells = spectrum.mel_filters(sample_rate_hz, n_fft, mels, fmin_hz, fmax_hz) @ spectrum.power(
        wave, n_fft=n_fft, hop=hop, window=window
    )
    return np.ascontiguousarray(spectrum.power_to_db(cells, least=1e-10, range_db=80.0).T, np.float32)


def samples(wave: np.ndarray, **settings: float) -> np.ndarray:
    """The waveform itself in frames, for encoders that take it: float32 [frames, WAVE_FRAME]."""
    return wave_frames(wave)


# name -> (function from float32 [samples] and settings to float32 [frames, mels], the only settings that it allows)
FRONTENDS = {
    "librosa": (mel_db, {}),
    "kaldi": (kaldi.fbank, kaldi.SETTINGS),
    "whisper": (whisper_mel.log_mel, whisper_mel.SETTINGS),
    "waveform": (samples, WAVE_SETTINGS),
}

"""Sound files: opened, checked, decoded to one channel, resampled and trimmed, alike in training and prediction.

Formats: see `sound_file.py`; any sample rate and number of channels. A recording that cannot be used raises
`UserError` naming the file, what is wrong with it and what to do. A damaged file can end the process inside a decoder's
library: `untrusted.decode` reads in a process of its own.
"""

import hashlib

import numpy as np
import soundfile
import soxr

from emoflax.errors import UserError
from emoflax.features import spectrum
from emoflax.features.containers import REMEDY, truncated
from emoflax.features.sound_file import MOST_SAMPLES, Sound, open_sound

_BLOCK_VALUES = 1 << 22  # decoded at once, of all channels: an hour in eight channels is never in memory as a whole
_SHORTEST_S = 0.01
_LATE_S = 0.05  # a segment may end this far beyond its file, because tables of segments are rounded
SILENT_PEAK = 1e-4  # 80 dB below full scale, three steps of 16 bits
SILENT_FINE_PEAK = 1e-6  # 120 dB below, of files whose steps are finer
_FINE = ("PCM_24", "PCM_32", "FLOAT", "DOUBLE")
_DEAD_POWER = 1e-4  # of the strongest channel's: an unused microphone input, 40 dB below
_LOUDEST_PEAK = 1e6  # far beyond 16-bit integers stored as floats; above it, powers overflow


def decode(
    path: str, start_s: float = 0.0, end_s: float | None = None, most_samples: int = MOST_SAMPLES
) -> tuple[np.ndarray, int]:
    """Reads a recording, or a part of it (end_s None: to the file's end), and checks it.

    Returns:
      float32 [samples], the mean of the channels that carry sound, full scale 1.0, at the file's own rate; that rate
      in Hz.

    Raises:
      UserError: a file that is missing, empty, truncated, silent, no sound, or holds NaN; a part beyond its end; more
        than `most_samples`.
    """
    with open_sound(path, most_samples) as file:
        rate_hz = file.samplerate
        first, last = _span(path, start_s, end_s, file.frames, rate_hz, most_samples)
        try:
            _skip(file, first)
            samples = _read_mono(file, last - first)
            silent_peak = SILENT_FINE_PEAK if getattr(file, "subtype", "") in _FINE else SILENT_PEAK
        except soundfile.LibsndfileError as error:
            raise UserError(f"{path} is damaged or truncated ({error.error_string.rstrip('.')}). {REMEDY}") from error
    if len(samples) < 0.99 * (last - first):
        raise truncated(path)
    _check_samples(path, samples, rate_hz, silent_peak)
    return samples, rate_hz


def digest(samples: np.ndarray) -> str:
    """Hash of float32 [samples]: equal for the same recording as WAV and as FLAC, under any path."""
    return hashlib.sha256(np.ascontiguousarray(samples, "<f4")).hexdigest()[:32]


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """float32 [samples] at from_hz -> float32 [samples] at to_hz, by soxr."""
    return samples if from_hz == to_hz else soxr.resample(samples, from_hz, to_hz, "HQ")


def change_speed(wave: np.ndarray, speed: float) -> np.ndarray:
    """float32 [samples] -> about samples / speed of them; pitch and formants are multiplied by `speed`."""
    return wave if speed == 1 else soxr.resample(wave, round(10_000 * speed), 10_000, "HQ")


def trim(wave: np.ndarray, trim_db: float) -> np.ndarray:
    """Cuts off both ends of float32 [samples] where they are trim_db below the loudest frame; 0 cuts nothing."""
    if not trim_db:
        return wave
    return spectrum.trim(wave, trim_db)


def _span(
    path: str, start_s: float, end_s: float | None, frames: int, rate_hz: int, most_samples: int
) -> tuple[int, int]:
    """First sample and the one after the last."""
    length_s = frames / rate_hz
    if not frames:
        raise UserError(f"{path} holds no samples. {REMEDY}")
    if start_s < 0 or start_s >= length_s or (end_s is not None and not start_s < end_s <= length_s + _LATE_S):
        raise UserError(
            f"{path} lasts {length_s:.3f} s, so it has no part from {start_s:g} s to "
            f"{'its end' if end_s is None else f'{end_s:g} s'}. Correct start_s and end_s in the corpus's table."
        )
    first, last = round(start_s * rate_hz), frames if end_s is None else min(frames, round(end_s * rate_hz))
    if last - first > most_samples:
        per, unit = (3600, "h") if most_samples > 3600 * rate_hz else (60, "min")
        raise UserError(
            f"{path} says that it lasts {length_s / per:,.0f} {unit}; up to {most_samples / rate_hz / per:.1f} {unit} "
            f"at its {rate_hz} Hz can be read at once. {REMEDY}"
        )
    return first, last


def _skip(file: Sound, frames: int) -> None:
    if frames and file.seekable():
        file.seek(frames)
        return
    while frames > 0 and len(block := file.read(min(frames, _BLOCK_VALUES), dtype="float32", always_2d=True)):
        frames -= len(block)  # of GSM 6.10, which libsndfile only reads from its beginning


def _read_mono(file: Sound, frames: int) -> np.ndarray:
    """float32 [samples], the mean of the channels that carry sound."""
    blocks, power, most = [], [], max(1, _BLOCK_VALUES // file.channels)
    while frames > 0:
        block = file.read(min(frames, most), dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(block[:, 0] if block.shape[1] == 1 else block.sum(axis=1))
        power.append(block.var(axis=0) * len(block) if block.shape[1] > 1 else np.zeros(1))
        frames -= len(block)
    samples = np.concatenate(blocks) if len(blocks) != 1 else blocks[0]
    return samples if len(power[0]) == 1 else samples / np.float32(_live(np.sum(power, axis=0)))


def _live(power_C: np.ndarray) -> int:
    """How many channels carry sound. The others add next to nothing to the sum, and must not divide it."""
    return max(1, int((power_C > _DEAD_POWER * power_C.max()).sum()))


def _check_samples(path: str, samples: np.ndarray, rate_hz: int, silent_peak: float) -> None:
    if len(samples) < _SHORTEST_S * rate_hz:
        raise UserError(f"{path} has {len(samples)} samples, less than {_SHORTEST_S * 1000:g} ms of sound. {REMEDY}")
    low, high = float(samples.min()), float(samples.max())  # both are NaN if any sample is
    if not np.isfinite(high - low):
        raise UserError(f"{path} holds samples that are not numbers (NaN or infinite). {REMEDY}")
    if high - low > 2 * _LOUDEST_PEAK:
        raise UserError(f"{path} holds samples up to {max(high, -low):.1e} where full scale is 1.0. {REMEDY}")
    if high - low < 2 * silent_peak:
        raise UserError(
            f"{path} is silent: the mean of its channels stays below {20 * np.log10(silent_peak):.0f} dB of full "
            f"scale. {REMEDY}"
        )

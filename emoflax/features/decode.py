"""Sound files: opened, checked, decoded to one channel, resampled and trimmed, alike in training and prediction.

Formats: whatever libsndfile decodes (WAV, FLAC, MP3, OGG, AIFF ...), any sample rate, any number of channels. A
recording that cannot be used raises `UserError` naming the file, what is wrong with it and what to do.
"""

import hashlib
import os
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from emoflax.errors import UserError
from emoflax.features import spectrum

_REMEDY = "Replace the file, or leave it out of the corpus."
_BLOCK_S = 30.0  # decoded at once, so that an hour in eight channels is never in memory as a whole
_SHORTEST_S = 0.01
_LATE_S = 0.05  # a segment may end this far beyond its file, because tables of segments are rounded
_SILENT_PEAK = 1e-4  # 80 dB below full scale, three steps of 16 bits
_LOUDEST_PEAK = 1e6  # far beyond 16-bit integers stored as floats; above it, powers overflow
# A program that writes a WAV file into a pipe does not know its length and writes the largest number.
_STREAMED_BYTES = 0x7F000000
_OGG_TAIL_BYTES = 1 << 17  # an OGG page holds at most 65,307 bytes


def decode(path: str, start_s: float = 0.0, end_s: float | None = None) -> tuple[np.ndarray, int]:
    """Reads a recording, or a part of it (end_s None: to the file's end), and checks it.

    Returns:
      float32 [samples], the mean of the channels, full scale 1.0, at the file's own rate; that rate in Hz.

    Raises:
      UserError: a file that is missing, empty, truncated, silent, no sound, or holds NaN; a part beyond its end.
    """
    _check_file(path)
    with _open(path) as file:
        rate_hz = file.samplerate
        first, last = _span(path, start_s, end_s, file.frames, rate_hz)
        try:
            file.seek(first)
            samples = _read_mono(file, last - first)
        except soundfile.LibsndfileError as error:
            raise UserError(f"{path} is damaged or truncated ({error.error_string.rstrip('.')}). {_REMEDY}") from error
    # Only a cut MP3, whose length is an estimate, is noticed here; other formats fail above or in the decoder.
    if len(samples) < 0.99 * (last - first):
        raise _truncated(path)
    _check_samples(path, samples, rate_hz)
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


def _check_file(path: str) -> None:
    """Checks for what libsndfile reports vaguely (missing, a folder, empty) or not at all (cut short)."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise UserError(f"{path} is empty (0 bytes). {_REMEDY}")
            head = file.read(12)
            if head[:4] == b"RIFF" and head[8:] == b"WAVE":
                cut = _wav_end(file, size) > size
            else:
                cut = head[:4] == b"OggS" and not _ogg_is_whole(file, size)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}. Correct the corpus's folder or table.") from error
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. {_REMEDY}") from error
    if cut:
        raise _truncated(path)


def _open(path: str) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        raise UserError(
            f"{path} is not sound that can be decoded ({error.error_string.rstrip('.')}); "
            f"WAV, FLAC, MP3 and OGG can. {_REMEDY}"
        ) from error


def _truncated(path: str) -> UserError:
    return UserError(f"{path} is truncated: it is shorter than its own header says. Copy or download it again.")


def _wav_end(file: BinaryIO, size: int) -> int:
    """Byte at which the samples end according to the header; libsndfile reads a shorter file without an error."""
    at = 12
    while at + 8 <= size:
        file.seek(at)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"data":
            return size if length >= _STREAMED_BYTES else at + 8 + length
        at += 8 + length + length % 2
    return at + 8  # the file ends before its samples begin


def _ogg_is_whole(file: BinaryIO, size: int) -> bool:
    """Whether the last OGG page carries the end-of-stream flag and all of its bytes."""
    start = max(0, size - _OGG_TAIL_BYTES)
    file.seek(start)
    tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return False
    body = page + 27 + tail[page + 26]
    return bool(tail[page + 5] & 4) and len(tail) >= body + sum(tail[page + 27 : body])


def _span(path: str, start_s: float, end_s: float | None, frames: int, rate_hz: int) -> tuple[int, int]:
    """First sample and the one after the last."""
    length_s = frames / rate_hz
    if not frames:
        raise UserError(f"{path} holds no samples. {_REMEDY}")
    if start_s < 0 or start_s >= length_s or (end_s is not None and not start_s < end_s <= length_s + _LATE_S):
        raise UserError(
            f"{path} lasts {length_s:.3f} s, so it has no part from {start_s:g} s to "
            f"{'its end' if end_s is None else f'{end_s:g} s'}. Correct start_s and end_s in the corpus's table."
        )
    return round(start_s * rate_hz), frames if end_s is None else min(frames, round(end_s * rate_hz))


def _read_mono(file: soundfile.SoundFile, frames: int) -> np.ndarray:
    """float32 [samples], the mean of the channels."""
    blocks = []
    while frames > 0:
        block = file.read(min(frames, round(_BLOCK_S * file.samplerate)), dtype="float32", always_2d=True)
        if not len(block):
            break
        blocks.append(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1))
        frames -= len(block)
    return np.concatenate(blocks) if len(blocks) != 1 else blocks[0]


def _check_samples(path: str, samples: np.ndarray, rate_hz: int) -> None:
    if len(samples) < _SHORTEST_S * rate_hz:
        raise UserError(f"{path} has {len(samples)} samples, less than {_SHORTEST_S * 1000:g} ms of sound. {_REMEDY}")
    low, high = float(samples.min()), float(samples.max())  # both are NaN if any sample is
    if not np.isfinite(high - low):
        raise UserError(f"{path} holds samples that are not numbers (NaN or infinite). {_REMEDY}")
    if high - low > 2 * _LOUDEST_PEAK:
        raise UserError(f"{path} holds samples up to {max(high, -low):.1e} where full scale is 1.0. {_REMEDY}")
    if high - low < 2 * _SILENT_PEAK:
        raise UserError(f"{path} is silent: the mean of its channels stays below -80 dB of full scale. {_REMEDY}")

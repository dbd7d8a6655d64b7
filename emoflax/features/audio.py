"""Recording -> mono waveform -> log-mel spectrogram. Training and prediction both go through here.

Formats: whatever libsndfile decodes (WAV, FLAC, MP3, OGG, AIFF ...), any sample rate, any number of channels. A
recording that cannot be used raises `UserError` naming the file, what is wrong with it and what to do.
"""

import functools
import hashlib
import os
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from emoflax.errors import UserError
from emoflax.features import contours as voice
from emoflax.features import kaldi, whisper_mel

_MEND = "Replace the file, or leave it out of the corpus."
_BLOCK_S = 30.0  # decoded at once, so that an hour in eight channels never lies in memory whole
_SHORTEST_S = 0.01
_LATE_S = 0.05  # a segment may end this far beyond its file: tables of segments are rounded
_SILENT_PEAK = 1e-4  # -80 dB under full scale, three steps of 16 bits
_LOUDEST_PEAK = 1e6  # far beyond raw 16-bit integers in a float file; more is not sound, and its power overflows
_STREAMED_BYTES = 0x7F000000  # a writer into a pipe cannot know the length and puts the largest number it has
_OGG_TAIL_BYTES = 1 << 17  # an OGG page holds at most 65,307 bytes


def check_settings(
    *,
    frontend: str,
    sample_rate_hz: int,
    trim_db: float,
    window_ms: float,
    hop_ms: float,
    mels: int,
    fmin_hz: float,
    fmax_hz: float,
    contours: bool,
    speed: float = 1.0,
) -> None:
    """Raises UserError, naming the config field, for settings that no spectrogram can be made with."""
    given = {
        "sample_rate_hz": sample_rate_hz, "window_ms": window_ms, "hop_ms": hop_ms, "mels": mels, "fmin_hz": fmin_hz,
        "fmax_hz": fmax_hz,
    }  # fmt: skip
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
    for field, fine, allowed in ranges:
        if not fine:
            raise UserError(f"--config.audio.{field} must be {allowed}.")


def log_mel(
    path: str,
    start_s: float = 0.0,
    end_s: float | None = None,
    *,
    frontend: str,
    sample_rate_hz: int,
    trim_db: float,
    contours: bool,
    speed: float = 1.0,
    **settings: float,
) -> tuple[np.ndarray, str, float]:
    """Log-mel spectrogram of a recording, or of the part of it between start_s and end_s (None: the file's end).

    Args:
      frontend: a name from `FRONTENDS`.
      contours: whether `clip.CONTOURS` follow the mels of each frame.
      speed: of `faster`.
      settings: the other fields of config.audio.

    Returns:
      float32 [frames, channels], mels in the front end's unit (see `mel_db`, `kaldi.fbank`, `whisper_mel.log_mel`); a
      digest of the decoded mono samples before resampling and trimming; the length in seconds before trimming.

    Raises:
      UserError: the recording cannot be used.
    """
    samples, rate_hz = decode(path, start_s, end_s)
    wave = faster(trim(resample(samples, rate_hz, sample_rate_hz), trim_db), speed)
    frames = FRONTENDS[frontend][0](wave, sample_rate_hz=sample_rate_hz, **settings)
    if contours:
        beside = voice.contours(wave, sample_rate_hz, settings["hop_ms"], len(frames))
        frames = np.concatenate([frames, beside], axis=1)
    return frames, digest(samples), len(samples) / rate_hz


def waveform(
    path: str, start_s: float = 0.0, end_s: float | None = None, *, sample_rate_hz: int, trim_db: float
) -> tuple[np.ndarray, float, str]:
    """What `log_mel` makes its spectrogram of, in 16 bits.

    Returns:
      int16 [samples], whose peak is the largest there is, so that quiet recordings lose no more than loud ones; what to
      multiply it by, so that full scale is 1.0; a digest as of `log_mel`.

    Raises:
      UserError: the recording cannot be used.
    """
    samples, rate_hz = decode(path, start_s, end_s)
    wave = trim(resample(samples, rate_hz, sample_rate_hz), trim_db)
    scale = float(np.abs(wave).max()) / np.iinfo(np.int16).max
    return np.round(wave / np.float32(scale)).astype(np.int16), scale, digest(samples)


def decode(path: str, start_s: float = 0.0, end_s: float | None = None) -> tuple[np.ndarray, int]:
    """Reads a recording, or a part of it, and checks it.

    Returns:
      float32 [samples], the mean of the channels, full scale 1.0, at the file's own rate; that rate in Hz.

    Raises:
      UserError: missing, empty, truncated, silent or NaN-bearing file; not a sound file; a part beyond its end.
    """
    _check_file(path)
    with _open(path) as file:
        rate_hz = file.samplerate
        first, last = _span(path, start_s, end_s, file.frames, rate_hz)
        try:
            file.seek(first)
            samples = _read_mono(file, last - first)
        except soundfile.LibsndfileError as error:
            raise UserError(f"{path} is damaged or truncated ({error.error_string.rstrip('.')}). {_MEND}") from error
    # Only MP3 comes here short (other formats are found out above or by the decoder); its length is an estimate.
    if len(samples) < 0.99 * (last - first):
        raise _truncated(path)
    _check_samples(path, samples, rate_hz)
    return samples, rate_hz


def digest(samples: np.ndarray) -> str:
    """Hash of float32 [samples]: equal for the same recording as WAV and as FLAC, wherever it lies."""
    return hashlib.sha256(np.ascontiguousarray(samples, "<f4")).hexdigest()[:32]


def resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """float32 [samples] at from_hz -> float32 [samples] at to_hz, by soxr."""
    return samples if from_hz == to_hz else soxr.resample(samples, from_hz, to_hz, "HQ")


def faster(wave: np.ndarray, speed: float) -> np.ndarray:
    """float32 [samples] -> about samples / speed of them: pitch and formants rise, as of another, smaller speaker."""
    return wave if speed == 1 else soxr.resample(wave, round(10_000 * speed), 10_000, "HQ")


def trim(wave: np.ndarray, trim_db: float) -> np.ndarray:
    """Cuts off both ends of float32 [samples] where they are trim_db under the loudest frame; 0 cuts nothing."""
    if not trim_db:
        return wave
    import librosa  # 1 to 2 s once in a process, so only where sound is processed

    return librosa.effects.trim(wave, top_db=trim_db)[0]


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

    Full-scale power is the reference, 80 dB under the clip's loudest cell the floor.

    Equal to librosa.feature.melspectrogram + power_to_db, but with the filters made once instead of for each clip
    and one plain matrix product: 0.7 ms instead of 1.2 ms for a trimmed RAVDESS clip. What is shorter than a window
    is filled up with zeros.
    """
    import librosa

    window = round(window_ms * sample_rate_hz / 1000)
    hop = round(hop_ms * sample_rate_hz / 1000)
    n_fft = 1 << (window - 1).bit_length()
    wave = np.pad(wave, (0, max(0, n_fft - len(wave))))
    power = np.abs(librosa.stft(wave, n_fft=n_fft, hop_length=hop, win_length=window)) ** 2
    cells = _mel_filters(sample_rate_hz, n_fft, mels, fmin_hz, fmax_hz) @ power
    return np.ascontiguousarray(librosa.power_to_db(cells, ref=1.0, amin=1e-10, top_db=80.0).T, np.float32)


@functools.lru_cache(maxsize=4)
def _mel_filters(sample_rate_hz: int, n_fft: int, mels: int, fmin_hz: float, fmax_hz: float) -> np.ndarray:
    """Slaney's filters, float32 [mels, 1 + n_fft // 2]."""
    import librosa

    return librosa.filters.mel(sr=sample_rate_hz, n_fft=n_fft, n_mels=mels, fmin=fmin_hz, fmax=fmax_hz)


# name -> (function from float32 [samples] and settings to float32 [frames, mels], the settings that it insists on)
FRONTENDS = {
    "librosa": (mel_db, {}),
    "kaldi": (kaldi.fbank, kaldi.SETTINGS),
    "whisper": (whisper_mel.log_mel, whisper_mel.SETTINGS),
}


def _check_file(path: str) -> None:
    """Finds what libsndfile would report vaguely (missing, a folder, empty) or not at all (cut short)."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise UserError(f"{path} is empty (0 bytes). {_MEND}")
            head = file.read(12)
            if head[:4] == b"RIFF" and head[8:] == b"WAVE":
                cut = _wav_end(file, size) > size
            else:
                cut = head[:4] == b"OggS" and not _ogg_is_whole(file, size)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}. Correct the corpus's folder or table.") from error
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. {_MEND}") from error
    if cut:
        raise _truncated(path)


def _open(path: str) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        raise UserError(
            f"{path} is not sound that can be decoded ({error.error_string.rstrip('.')}); "
            f"WAV, FLAC, MP3 and OGG can. {_MEND}"
        ) from error


def _truncated(path: str) -> UserError:
    return UserError(f"{path} is truncated: it is shorter than its own header says. Copy or download it again.")


def _wav_end(file: BinaryIO, size: int) -> int:
    """Byte at which the samples end by the word of the header; libsndfile takes what is there without a word."""
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
        raise UserError(f"{path} holds no samples. {_MEND}")
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
        raise UserError(f"{path} gives {len(samples)} samples, less than {_SHORTEST_S * 1000:g} ms of sound. {_MEND}")
    low, high = float(samples.min()), float(samples.max())  # NaN, if there is one, is the answer of both
    if not np.isfinite(high - low):
        raise UserError(f"{path} holds samples that are not numbers (NaN or infinite). {_MEND}")
    if high - low > 2 * _LOUDEST_PEAK:
        raise UserError(f"{path} holds samples up to {max(high, -low):.1e} where full scale is 1.0. {_MEND}")
    if high - low < 2 * _SILENT_PEAK:
        raise UserError(f"{path} is silent: its channels together stay under -80 dB of full scale. {_MEND}")

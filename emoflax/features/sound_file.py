"""Opens a recording of any format as one sequence of frames, whole: libsndfile's formats, and PyAV's where it is there.

What is returned behaves like `soundfile.SoundFile` in the few methods that reading needs.
"""

import contextlib
import io
import mmap
import os
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import soundfile

from emoflax.data.clip import CONTAINER_SUFFIXES
from emoflax.errors import UserError
from emoflax.features import containers, flac, mpeg, ogg, plain_wav
from emoflax.features.containers import REMEDY

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 768_000  # outside of it soxr ends the process or fills the memory
# What libsndfile calls the formats whose length is checked, so that a file that was cut is not taken for a whole one.
_CHECKED = ("WAV", "WAVEX", "RF64", "AIFF", "AU", "CAF", "W64", "NIST", "FLAC", "OGG", "MP3")
MOST_SAMPLES = 1 << 29  # of a decoded recording: 3 h at 48 kHz, 9 h at 16 kHz, 2 GB


class Sound(Protocol):
    """Frames of a recording, read from the first one on, or from where `seek` went."""

    samplerate: int
    frames: int
    channels: int

    def seekable(self) -> bool: ...
    def seek(self, frames: int) -> int: ...
    def read(self, frames: int, dtype: str, always_2d: bool) -> np.ndarray: ...
    def close(self) -> None: ...


def open_sound(path: str, most_samples: int = MOST_SAMPLES) -> "contextlib.closing[Sound]":
    """To be used in a `with` statement.

    Args:
      most_samples: of all channels together, of formats that are decoded at once.

    Raises:
      UserError: the file is missing, no sound, damaged, cut, or of an absurd rate.
    """
    size = containers.check_regular(path)
    try:
        with open(path, "rb") as file:
            head = file.read(plain_wav.HEAD_BYTES)
            containers.check_head(path, head)
            containers.check_length(path, file, size, head)
            sound: Sound | None = plain_wav.open_plain(path, size, head)
            if sound is None:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    sound = _open(path, head, data, most_samples)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}. {REMEDY}") from error
    if not LOWEST_RATE_HZ <= sound.samplerate <= HIGHEST_RATE_HZ:
        sound.close()
        raise UserError(
            f"{path} has a sample rate of {sound.samplerate} Hz; rates from {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz "
            f"can be read. {REMEDY}"
        )
    return contextlib.closing(sound)


def _open(path: str, head: bytes, data: mmap.mmap, most_samples: int) -> Sound:
    if head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3" or _is_adts(head):
        return _by_pyav(path, most_samples)
    if head[:4] == b"OggS" and len(starts := ogg.streams(path, data)) > 1:
        ends = [*starts[1:], len(data)]
        return _joined(path, [io.BytesIO(data[begin:end]) for begin, end in zip(starts, ends, strict=True)])
    flac.check_rate(path, data)
    if (start := flac.with_length(data)) is not None:
        return _by_libsndfile(path, io.BytesIO(start + data[len(start) :]))
    try:
        sound = _by_libsndfile(path, path)
        return _mp3(path, sound, mpeg.parts(path, data), data) if sound.format == "MP3" else sound
    except UserError:
        if path.lower().endswith(CONTAINER_SUFFIXES):
            return _by_pyav(path, most_samples)
        raise


def _mp3(path: str, sound: soundfile.SoundFile, parts: list[mpeg.Part], data: mmap.mmap) -> Sound:
    """The file as it is where its header fits; else its parts, each with a header that does."""
    if not parts or (len(parts) == 1 and not parts[0].needs_header and not parts[0].is_cut_short(sound.frames)):
        return sound
    sound.close()
    alone = len(parts) == 1
    return _joined(path, [_with_header(part, data, anew=alone or part.needs_header) for part in parts])


def _with_header(part: mpeg.Part, data: mmap.mmap, anew: bool) -> io.BytesIO:
    if not anew:
        return io.BytesIO(data[part.begin : part.end])
    return io.BytesIO(part.header() + data[part.begin + part.tag_bytes : part.end])


def _by_libsndfile(path: str, source: str | io.BytesIO) -> soundfile.SoundFile:
    try:
        is_name = isinstance(source, str) and os.name == "posix"  # where a name may hold bytes that are no text
        sound = soundfile.SoundFile(os.fsencode(source) if is_name else source)
        if sound.format == "RAW":  # libsndfile takes whatever is named .au, .snd, .gsm or .vox
            sound.close()
            raise UserError(f"{path} is not sound that can be decoded: its header is missing or damaged. {REMEDY}")
        if sound.format not in _CHECKED:
            sound.close()
            raise UserError(
                f"{path} is a {sound.format} file, whose length is not checked here, so that a cut one would pass for "
                "whole: convert it to WAV or FLAC (such as by sox), or leave it out of the corpus."
            )
        return sound
    except soundfile.LibsndfileError as error:
        raise UserError(
            f"{path} is not sound that can be decoded ({error.error_string.rstrip('.')}); WAV, FLAC, MP3, OGG, Opus "
            f"and AIFF can. {REMEDY}"
        ) from error
    except (RuntimeError, ValueError, TypeError, OSError) as error:  # TypeError: a raw file, whose rate nobody knows
        raise UserError(f"{path} is not sound that can be decoded ({error}). {REMEDY}") from error


def _by_pyav(path: str, most_samples: int) -> Sound:
    from emoflax.features import sound_av

    return sound_av.open_sound(path, most_samples)


def _is_adts(head: bytes) -> bool:
    """AAC without a container; MP3's frames have another layer than 0."""
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0


def _joined(path: str, sources: Sequence[io.BytesIO]) -> Sound:
    parts = [_by_libsndfile(path, source) for source in sources if source.getbuffer().nbytes]
    if len({(part.samplerate, part.channels, part.subtype) for part in parts}) != 1:
        raise UserError(f"{path} changes its sample rate, channels or codec on the way. {REMEDY}")
    return _Joined(parts)


class _Joined:
    """Recordings of one rate, one after the other."""

    def __init__(self, parts: Sequence[soundfile.SoundFile]):
        self._parts, self._now = parts, 0
        self.samplerate, self.channels = parts[0].samplerate, parts[0].channels
        self.frames = sum(part.frames for part in parts)

    def seekable(self) -> bool:
        return True

    def seek(self, frames: int) -> int:
        left = frames
        self._now = 0
        while self._now + 1 < len(self._parts) and left >= self._parts[self._now].frames:
            left -= self._parts[self._now].frames
            self._now += 1
        self._parts[self._now].seek(left)
        return frames

    def read(self, frames: int, dtype: str, always_2d: bool) -> np.ndarray:
        block = self._parts[self._now].read(frames, dtype=dtype, always_2d=always_2d)
        while not len(block) and self._now + 1 < len(self._parts):
            self._now += 1
            self._parts[self._now].seek(0)
            block = self._parts[self._now].read(frames, dtype=dtype, always_2d=always_2d)
        return block

    def close(self) -> None:
        for part in self._parts:
            part.close()

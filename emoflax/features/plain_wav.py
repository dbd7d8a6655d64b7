"""The most common recording, a WAV of 16-bit samples, read by Python alone.

No C library parses it, so a damaged file cannot end the process that reads it, and it needs no process of its own
(`untrusted.py`), which costs more than reading it does. Everything else, or out of the ordinary, is left to libsndfile.
"""

import dataclasses
import struct

import numpy as np

HEAD_BYTES = 4096  # within which the samples must begin
_PCM, _BITS, _MOST_CHANNELS = 1, 16, 64


@dataclasses.dataclass
class PlainWav:
    """Frames of the file, as `sound_file.Sound` says; `begin`: byte of the first one."""

    path: str
    samplerate: int
    channels: int
    begin: int
    frames: int
    now: int = 0
    subtype = "PCM_16"
    format = "WAV"

    def seekable(self) -> bool:
        return True

    def seek(self, frames: int) -> int:
        self.now = frames
        return frames

    def read(self, frames: int, dtype: str = "float32", always_2d: bool = True) -> np.ndarray:
        """Float32 [frames, channels], full scale 1.0, as libsndfile gives it."""
        count = max(0, min(frames, self.frames - self.now))
        offset = self.begin + 2 * self.channels * self.now
        steps = np.fromfile(self.path, "<i2", count * self.channels, offset=offset)
        self.now += count
        return (steps.astype(np.float32) / np.float32(32768)).reshape(-1, self.channels)

    def close(self) -> None:
        """Nothing is kept open."""


def open_plain(path: str, size: int, head: bytes) -> PlainWav | None:
    """The file, if it is a whole one of this kind.

    Args:
      size: of the file in bytes.
      head: the first `HEAD_BYTES` of it, or all.
    """
    if head[:4] != b"RIFF" or head[8:16] != b"WAVEfmt ":
        return None
    place, found = 12, None
    while place + 8 <= len(head):
        name, length = struct.unpack_from("<4sI", head, place)
        place += 8
        if name == b"fmt " and place + 16 <= len(head):
            found = struct.unpack_from("<HHIIHH", head, place)
        elif name == b"data":
            return _of(path, found, place, length) if found and place + length <= size else None
        place += length + length % 2
    return None


def is_plain(path: str, size: int) -> bool:
    try:
        with open(path, "rb") as file:
            return open_plain(path, size, file.read(HEAD_BYTES)) is not None
    except OSError:  # whoever reads the file says why it cannot be
        return False


def _of(path: str, found: tuple, begin: int, length: int) -> PlainWav | None:
    encoding, channels, rate_hz, _, frame_bytes, bits = found
    usual = encoding == _PCM and bits == _BITS and 0 < channels <= _MOST_CHANNELS and frame_bytes == 2 * channels
    if not usual or length % frame_bytes:
        return None
    return PlainWav(path, rate_hz, channels, begin, length // frame_bytes)

"""Recordings in M4A, MP4, WebM and AAC files, by PyAV (FFmpeg's libraries), where it is installed."""

import numpy as np

from emoflax.errors import UserError, optional
from emoflax.features.containers import REMEDY

_LATE_S = 0.2  # an encoder's delay and its last frame may be missing from the length that the file names


class Decoded:
    """A decoded recording in memory, in the form of `sound_file.Sound`."""

    def __init__(self, samples: np.ndarray, samplerate: int):
        self.samplerate, self.channels, self.frames = samplerate, samples.shape[1], len(samples)
        self._samples, self._at = samples, 0

    def seekable(self) -> bool:
        return True

    def seek(self, frames: int) -> int:
        self._at = frames
        return frames

    def read(self, frames: int, dtype: str, always_2d: bool) -> np.ndarray:
        block = self._samples[self._at : self._at + frames]
        self._at += len(block)
        return block

    def close(self) -> None:
        self._samples = self._samples[:0]


def open_sound(path: str, most_samples: int) -> Decoded:
    """Decodes the first stream of sound.

    Raises:
      NotInstalled: PyAV is not there.
      UserError: no sound, damaged, cut, or longer than `most_samples`.
    """
    with optional(path, "av"):
        import av
    try:
        with open(path, "rb") as source, av.open(source, options={"err_detect": "explode"}) as file:
            if not file.streams.audio:
                raise UserError(f"{path} holds no sound. {REMEDY}")
            stream = file.streams.audio[0]
            stream.codec_context.options = {"err_detect": "explode"}
            length_s = _length_s(file, stream, av.time_base)
            blocks, samples, rates_hz = [], 0, set()
            for frame in file.decode(stream):
                rates_hz.add(frame.sample_rate)
                blocks.append(_floats(frame))
                samples += len(blocks[-1])
                if samples * blocks[-1].shape[1] > most_samples:
                    raise UserError(f"{path} has more than {most_samples} samples: cut it into shorter recordings.")
    except (av.error.FFmpegError, ValueError, EOFError) as error:
        raise UserError(f"{path} is damaged or truncated ({error}). {REMEDY}") from error
    if len(rates_hz) != 1 or len({block.shape[1] for block in blocks}) != 1:
        raise UserError(f"{path} holds no sound, or changes its rate or number of channels on the way. {REMEDY}")
    rate_hz = rates_hz.pop()
    if samples < 0.99 * (length_s - _LATE_S) * rate_hz:
        raise UserError(f"{path} is truncated: it is shorter than its own header says. Copy or download it again.")
    return Decoded(np.concatenate(blocks), rate_hz)


def _length_s(file, stream, unit: int) -> float:
    """That the file names for its sound; 0 if none: AAC without a container has an estimate alone."""
    if file.format.name == "aac":
        return 0.0
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return file.duration / unit if file.duration and len(file.streams) == 1 else 0.0


def _floats(frame) -> np.ndarray:
    """float32 [samples, channels], full scale 1.0."""
    values = frame.to_ndarray()
    channels = frame.layout.nb_channels
    values = values.T if frame.format.is_planar else values.reshape(-1, channels)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        return values.astype(np.float32) / -float(np.iinfo(values.dtype).min)
    return values.astype(np.float32)

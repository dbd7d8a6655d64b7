"""A microphone as chunks of sound, by sounddevice (PortAudio)."""

import queue
from collections.abc import Iterator

import numpy as np

from emoflax.errors import UserError, optional


class Microphone:
    """An input device. To be used in a `with` statement, within which it records.

    Args:
      device: number or part of the name, as `python -m sounddevice` lists them; '': the system's default.

    Attributes:
      rate_hz: sample rate, the device's own.

    Raises:
      UserError: there is no such device, or no PortAudio.
    """

    def __init__(self, device: str = ""):
        try:
            with optional("--inputs=mic", "mic"):
                import sounddevice
        except OSError as error:  # the package has no PortAudio of its own on Linux
            raise UserError(f"--inputs=mic: {error}; on Debian: apt-get install libportaudio2") from error
        self._chunks: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
        chosen: int | str | None = int(device) if device.isdigit() else device or None
        try:
            self.rate_hz = round(sounddevice.query_devices(chosen, "input")["default_samplerate"])
            self._stream = sounddevice.InputStream(
                samplerate=self.rate_hz, device=chosen, channels=1, dtype="float32", callback=self._receive,
                finished_callback=lambda: self._chunks.put(None),
            )  # fmt: skip
        except (ValueError, sounddevice.PortAudioError) as error:
            raise UserError(
                f"--inputs=mic{':' if device else ''}{device}: {error}; python -m sounddevice lists the devices"
            ) from error

    def __enter__(self) -> "Microphone":
        self._stream.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def chunks(self) -> Iterator[np.ndarray]:
        """float32 [samples, 1] as they come, until the device is gone."""
        while (chunk := self._chunks.get()) is not None:
            yield chunk

    def _receive(self, chunk: np.ndarray, frames: int, time: object, status: object) -> None:
        """Called by PortAudio's own thread, which uses the memory of the chunk again."""
        self._chunks.put(chunk.copy())

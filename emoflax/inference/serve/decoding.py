"""Uploads -> samples, by several processes that a damaged file may end; nothing is written to a disk."""

import concurrent.futures
import os
import pathlib
import queue

import numpy as np

from emoflax.errors import UserError
from emoflax.features.untrusted import Decoder
from emoflax.inference.recordings import TEXT_SUFFIXES, Recording
from emoflax.inference.serve.settings import Settings
from emoflax.parallel.workers import usable_cores


class Decoders:
    """Threads with a decoding process each. `restarts`: how often a recording ended one."""

    def __init__(self, settings: Settings):
        if not hasattr(os, "memfd_create"):
            raise UserError("--mode=serve keeps uploads in files of memory, which only Linux has; run it on Linux")
        self._settings, count = settings, settings.decoders or usable_cores()
        self._all = [Decoder() for _ in range(count)]
        self._idle: queue.LifoQueue[Decoder] = queue.LifoQueue()
        for one in self._all:
            one.start()
            self._idle.put(one)
        self.threads = concurrent.futures.ThreadPoolExecutor(count, "decoder")

    @property
    def restarts(self) -> int:
        return sum(one.restarts for one in self._all)

    def read(self, content: bytes, name: str, text: str | None, takes_text: bool) -> Recording:
        """An upload as a recording; a text file is one for models that take words. Waits for a process.

        Args:
          text: what is said, where it is known.

        Raises:
          UserError: it cannot be used; the message calls it `name`.
        """
        if not content:
            raise UserError(f"{name} is empty (0 bytes)")
        if takes_text and pathlib.PurePath(name).suffix.lower() in TEXT_SUFFIXES:
            try:
                return Recording(name, np.zeros(0, np.float32), text=content.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise UserError(f"{name} is no UTF-8 text file: {error}") from error
        decoder = self._idle.get()
        try:
            samples, rate_hz = decoder.decode(content, name, self._settings.most_samples)
        finally:
            self._idle.put(decoder)
        return Recording(name, samples, rate_hz, text)

    def stop(self) -> None:
        self.threads.shutdown(cancel_futures=True)
        for one in self._all:
            one.stop()

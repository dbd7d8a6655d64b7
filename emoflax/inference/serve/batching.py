"""Recordings of many requests -> batches for the model, in one thread.

A batch holds what has arrived: while the model is at work on one, the next one fills. Only the first recording that
finds the model idle waits, some milliseconds, for others. The model pads batches and lengths to a few fixed shapes
(`inference/member.py`), so nothing compiles after its warm-up.
"""

import concurrent.futures
import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Sequence

from emoflax.errors import UserError
from emoflax.inference.model import Model, Prediction
from emoflax.inference.recordings import Recording
from emoflax.inference.utterances import Gaps
from emoflax.inference.windows import Windows


class Busy(Exception):
    """More waits already than may."""


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A recording to be predicted; `done` gets its rows and what is to be said about them, or a UserError."""

    recording: Recording
    cut: Windows
    done: "concurrent.futures.Future[tuple[list[Prediction], list[str]]]"


class Batcher:
    """Predicts recordings in batches.

    Args:
      batch_ms: see `Settings`, as of the others.
      on_batch: is called with the number of recordings of every batch.
    """

    def __init__(
        self, model: Model, *, batch_ms: float, batch_rows: int, most_held_s: float,
        on_batch: Callable[[int], None] = lambda rows: None,
    ):  # fmt: skip
        self._model, self._wait_s, self._most_held_s, self._on_batch = model, batch_ms / 1000, most_held_s, on_batch
        self._rows = 1 if model.takes_text else batch_rows  # Whisper transcribes one by one
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._held_s, self._lock = 0.0, threading.Lock()
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    @property
    def held_s(self) -> float:
        """Seconds of the recordings that wait or are predicted."""
        return self._held_s

    def submit(self, recording: Recording, cut: Windows) -> "concurrent.futures.Future":
        """A future of (rows, sentences about them); it may be cancelled while it waits.

        Raises:
          Busy: too much waits already.
        """
        with self._lock:
            if self._held_s and self._held_s + recording.seconds > self._most_held_s:
                raise Busy
            self._held_s += recording.seconds
        job = Job(recording, cut, concurrent.futures.Future())
        job.done.add_done_callback(lambda _: self._release(recording.seconds))
        self._jobs.put(job)
        return job.done

    def stop(self) -> None:
        """Ends the thread, after what was submitted before."""
        self._jobs.put(None)
        self._thread.join()

    def _release(self, seconds: float) -> None:
        with self._lock:
            self._held_s = max(0.0, self._held_s - seconds)

    def _work(self) -> None:
        while (first := self._jobs.get()) is not None:
            jobs, last = self._collected(first)
            self._on_batch(len(jobs))
            alike: dict[Windows, list[Job]] = {}
            for job in jobs:
                if job.done.set_running_or_notify_cancel():
                    alike.setdefault(job.cut, []).append(job)
            for cut, own in alike.items():
                self._predict(own, cut)
            if last:
                return

    def _collected(self, first: Job) -> tuple[list[Job], bool]:
        """What has arrived, `first` and at most a batch; and whether nothing will follow."""
        jobs, until = [first], time.monotonic() + (self._wait_s if self._jobs.empty() else 0.0)
        while len(jobs) < self._rows:
            try:
                job = self._jobs.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
        return jobs, False

    def _predict(self, jobs: Sequence[Job], cut: Windows) -> None:
        """Of a batch that fails each recording is tried alone: one must not cost the others their answers."""
        gaps = Gaps()
        try:
            for job, rows in zip(jobs, self._model.score([job.recording for job in jobs], cut, gaps), strict=True):
                if isinstance(rows, UserError):
                    job.done.set_exception(rows)
                else:
                    job.done.set_result((rows, gaps.sentences()))
        except Exception as error:
            if len(jobs) == 1:
                with contextlib.suppress(concurrent.futures.InvalidStateError):
                    jobs[0].done.set_exception(error)
                return
            for job in jobs:
                if not job.done.done():
                    self._predict([job], cut)

"""Files of events for TensorBoard, without TensorFlow and without a thread."""

import contextlib
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping

from emoflax.files import make_folder, naming


class Board:
    """A file of events.

    Not tensorboardX's `SummaryWriter`: it writes in a thread, which a full disk ends, and `close` then waits for ever.

    Args:
      first_epoch: what earlier files in the folder say of this epoch and later ones is hidden; None: these files are
        deleted, so that what is logged once at the end of a run stands there once, however often it is made.
    """

    def __init__(self, folder: pathlib.Path, first_epoch: int | None = None):
        with _without_torch():  # imported here, for prediction does not need it
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2, summary_pb2
        self._event, self._summary, self._folder = event_pb2.Event, summary_pb2.Summary, folder
        make_folder(folder)
        with naming(folder):
            for old in folder.glob("events*") if first_epoch is None else ():
                old.unlink()
            self._writer = EventsWriter(str(folder / "events"))
            if first_epoch is not None:
                start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self._writer.write_event(self._event(wall_time=time.time(), step=first_epoch, session_log=start))

    def add(self, scalars: Mapping[str, float], epoch: int) -> None:
        self._write(self._summary(value=[self._value(tag=name, simple_value=x) for name, x in scalars.items()]), epoch)

    def picture(self, tag: str, png: bytes, epoch: int) -> None:
        width, height = (
            int.from_bytes(png[at : at + 4], "big") for at in (16, 20)
        )  # of the header (PNG 3rd ed., 11.2.1)
        image = self._summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        self._write(self._summary(value=[self._value(tag=tag, image=image)]), epoch)

    def hyperparameters(self, values: Mapping[str, bool | float | str], scores: Mapping[str, float]) -> None:
        """A line of TensorBoard's table HPARAMS; the scores are to be added as scalars, too, of the same names."""
        with _without_torch():
            from tensorboardX.summary import hparams
        for summary in hparams(dict(values), dict(scores)):
            self._write(summary, 0)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # reported when it was written
            self._writer.close()

    @property
    def _value(self):
        return self._summary.Value

    def _write(self, summary, epoch: int) -> None:
        with naming(self._folder):
            self._writer.write_event(self._event(wall_time=time.time(), step=epoch, summary=summary))
            self._writer.flush()


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Imports inside behave as if PyTorch were not installed, unless it is loaded already.

    tensorboardX imports it where it can, only to accept its tensors: two seconds and 200 MB. It has no switch for that;
    None in `sys.modules` is how Python lets an import fail (documented in its reference, "The module cache").
    """
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]

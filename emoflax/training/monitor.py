"""What a run says while it goes: metrics.jsonl, TensorBoard, one progress bar, and a trace of some steps."""

import contextlib
import json
import pathlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import tqdm

from emoflax.errors import UserError
from emoflax.files import make_folder, naming, parse_json, write_whole


class Monitor:
    """One line of numbers per epoch, to all three places.

    Args:
      epoch: the epoch that training resumes after; later lines, of epochs that no checkpoint has, are dropped.
    """

    def __init__(self, folder: pathlib.Path, title: str, epoch: int, epochs: int):
        self._path = folder / "metrics.jsonl"
        kept = [line for line in read(folder) if line["epoch"] <= epoch]
        with naming(self._path):
            with write_whole(self._path) as file:
                file.write("".join(json.dumps(line) + "\n" for line in kept).encode())
            self._file = self._path.open("a")
        self._board = _Board(folder / "tensorboard", epoch + 1)
        self._bar = tqdm.tqdm(total=epochs, initial=epoch, desc=title, unit="epoch", dynamic_ncols=True)

    def epoch(self, numbers: dict[str, Any]) -> None:
        """Logs numbers that include 'epoch'; None marks what was not measured."""
        with naming(self._path):
            self._file.write(json.dumps(numbers) + "\n")
            self._file.flush()
        self._board.add({name: x for name, x in numbers.items() if x is not None and name != "epoch"}, numbers["epoch"])
        shown = {name: numbers[name] for name in ("loss", "dev_uar", "clips_per_s") if numbers[name] is not None}
        self._bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items()}, refresh=False)
        self._bar.update()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # reported when the epoch was written
            self._file.close()
        self._board.close()
        self._bar.close()


class _Board:
    """A file of events for TensorBoard.

    Not tensorboardX's `SummaryWriter`: it writes in a thread, which a full disk ends, and `close` then waits for ever.
    """

    def __init__(self, folder: pathlib.Path, first_epoch: int):
        with _without_torch():  # imported here, for prediction does not need it
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto import event_pb2, summary_pb2
            from tensorboardX.summary import hparams
        self._event, self._summary, self._folder, self._hparams = event_pb2.Event, summary_pb2.Summary, folder, hparams
        make_folder(folder)
        with naming(folder):
            self._writer = EventsWriter(str(folder / "events"))
            # Epochs after the one that training resumes from are hidden.
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.write_event(self._event(wall_time=time.time(), step=first_epoch, session_log=start))

    def add(self, scalars: dict[str, float], epoch: int) -> None:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(self._summary(value=values), epoch)

    def add_picture(self, name: str, png: bytes) -> None:
        width, height = (int.from_bytes(png[place : place + 4], "big") for place in (16, 20))  # of the header chunk
        image = self._summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
        self._write(self._summary(value=[self._summary.Value(tag=name, image=image)]), 0)

    def add_hyperparameters(self, fields: Mapping[str, Any], scores: Mapping[str, float]) -> None:
        """A row of TensorBoard's table HPARAMS, whose columns with scores are the scalars of the same names."""
        for summary in self._hparams(dict(fields), dict(scores)):
            self._write(summary, 0)

    def _write(self, summary: Any, step: int) -> None:
        with naming(self._folder):
            self._writer.write_event(self._event(wall_time=time.time(), step=step, summary=summary))
            self._writer.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # reported when the epoch was written
            self._writer.close()


def log_test(
    folder: pathlib.Path, scores: Mapping[str, float], pictures: Iterable[pathlib.Path], fields: Mapping[str, Any]
) -> None:
    """Adds a run's test scores to TensorBoard: scalars, pictures, and a row in its table of hyperparameters.

    Args:
      folder: of the run; the events go to its folder `tensorboard`.
      scores: name, such as 'test/uar' -> score.
      pictures: PNG files.
      fields: the settings by which runs are told apart.
    """
    board = _Board(folder / "tensorboard", 0)
    try:
        plain = {name: value if isinstance(value, int | float | str) else str(value) for name, value in fields.items()}
        board.add(dict(scores), 0)
        board.add_hyperparameters(plain, scores)
        for picture in pictures:
            board.add_picture(f"test/{picture.stem}", picture.read_bytes())
    finally:
        board.close()


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


class Profile:
    """A trace of training steps, for TensorBoard's profiler, XProf or Perfetto.

    Args:
      folder: where it goes to; None: nowhere, the steps are run as if it went there.
      steps: the first step, from 0 on, and the one to stop before; empty: no trace.
    """

    def __init__(self, folder: pathlib.Path | None = None, steps: Sequence[int] = ()):
        if steps and not (len(steps) == 2 and all(type(step) is int for step in steps) and 0 <= steps[0] < steps[1]):
            raise UserError(f"config.profile_steps={tuple(steps)} must be two steps, the lower one first")
        self.steps, self._folder, self._running = tuple(steps), folder, False

    def at(self, step: int, state: Any) -> None:
        """To be called when all steps before `step` are under way; state: what is still being computed."""
        if self._running and step >= self.steps[1]:
            jax.block_until_ready(state)
            self.close()
        if self._folder and self.steps and step == self.steps[0]:
            jax.block_until_ready(state)
            jax.profiler.start_trace(self._folder)
            self._running = True

    def close(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)


def read(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl, but for a last line that a kill has torn.

    Raises:
      UserError: another line is damaged.
    """
    path, lines = folder / "metrics.jsonl", []
    *whole, _ = path.read_bytes().split(b"\n") if path.exists() else [b""]
    for number, text in enumerate(whole, start=1):
        try:
            line = parse_json(text)
        except ValueError:
            line = None
        if not isinstance(line, dict) or type(line.get("epoch")) is not int or not all(map(_is_number, line.values())):
            raise UserError(
                f"{path} line {number} is damaged; move the file elsewhere, and the same command goes on without the "
                "numbers of earlier epochs; the checkpoints do not depend on it"
            )
        lines.append(line)
    return lines

"""What a run says while it goes: metrics.jsonl, TensorBoard, one progress bar, and a trace of some steps."""

import contextlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import tqdm

from emoflax.errors import UserError
from emoflax.files import naming, parse_json, write_whole
from emoflax.training.board import Board


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
        self._board = Board(folder / "tensorboard", epoch + 1)
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

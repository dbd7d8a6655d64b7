"""The records of predictions on disk: a line of JSON per file, written as it goes, gone on with after an interruption.

While a command is at work, `<output>.unfinished` stands beside its output and names the model. The same command started
again keeps the lines of that file and predicts the rest; a finished output is written anew. A file that is predicted in
windows has several lines; those of the last one are not kept, because a kill may have come between them.
"""

import contextlib
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from absl import logging

from emoflax.errors import UserError
from emoflax.files import write_whole


def check_place(output: pathlib.Path) -> None:
    """Before any work.

    Raises:
      UserError: nothing can be written there.
    """
    folder = output.parent
    if not folder.is_dir():
        state = "is no folder" if folder.exists() else "does not exist"
        raise UserError(f"--output={output}: the folder {folder} {state}; make it, or choose another --output")
    if output.is_dir():
        raise UserError(f"--output={output} is a folder; name a file in it, such as {output / 'predictions.jsonl'}")
    if not os.access(output if output.exists() else folder, os.W_OK):
        raise UserError(f"--output={output} cannot be written: no permission; choose another --output")


def refuse_inputs(output: pathlib.Path, inputs: Iterable[pathlib.Path]) -> None:
    """Raises UserError if the output would overwrite one of the inputs."""
    if not output.is_file():
        return
    there = output.stat()
    for path in inputs:
        with contextlib.suppress(OSError, ValueError):
            if os.path.samestat(there, path.stat()):
                raise UserError(f"--output={output} is one of the inputs and would be overwritten; choose another file")


def printable(name: Any) -> str:
    """A name for a terminal: what cannot be printed (line ends, bytes that are no UTF-8) as a Python escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


class Records:
    """Records of one command. To be used in a `with` statement.

    Args:
      output: their file; None: they are kept in memory alone.
      description: of the model; lines of another model's unfinished output are not kept.
      inputs: files that the command is about.

    Attributes:
      lines: one record per file or window that was dealt with, in their order: {file, emotion, probabilities, ...},
        or {file, error} of a file that could not be used.
      earlier: files that an interrupted command dealt with.
    """

    def __init__(self, output: pathlib.Path | None, description: dict, inputs: Sequence[pathlib.Path]):
        self.lines: list[dict[str, Any]] = []
        self._file, self._output, self._mark = None, output, None
        if output is not None:
            with self._writing():
                # A pipe or a terminal cannot be gone on with.
                if output.is_file() or not output.exists():
                    self._mark = output.with_name(f"{output.name}.unfinished")
                    self._go_on(hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest(), inputs)
                self._file = output.open("a" if self._mark else "w", encoding="utf-8")
        self.earlier = {record["file"] for record in self.lines}

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            if kind is None and self._mark is not None:
                self._mark.unlink(missing_ok=True)

    @property
    def failures(self) -> list[str]:
        """Why files could not be used."""
        return [record["error"] for record in self.lines if "error" in record]

    def add(self, records: Sequence[dict[str, Any]]) -> None:
        """Writes records, so that they are kept whatever happens next."""
        self.lines += records
        if self._file is not None:
            with self._writing():
                self._file.write("".join(json.dumps(record) + "\n" for record in records))
                self._file.flush()

    def _go_on(self, model: str, inputs: Sequence[pathlib.Path]) -> None:
        mark = {"model": model}
        if _parsed(_content(self._mark)) == mark:
            wanted = {str(path) for path in inputs}
            there = _records(_content(self._output))
            torn = there[-1]["file"] if there and "start_s" in there[-1] else None
            self.lines = [one for one in there if one["file"] in wanted and one["file"] != torn]
            kept = len({one["file"] for one in self.lines})
            logging.info("%d of %d files were dealt with before: %s", kept, len(inputs), self._output)
        with write_whole(self._output) as file:
            file.write("".join(json.dumps(record) + "\n" for record in self.lines).encode())
        with write_whole(self._mark) as file:
            file.write(json.dumps(mark).encode())

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write {self._output}: {error.strerror or error}; make room or choose another --output; what "
                "was written is kept, and the same command goes on from it"
            ) from error


def _content(path: pathlib.Path | None) -> bytes:
    return path.read_bytes() if path is not None and path.is_file() else b""


def _records(content: bytes) -> list[dict[str, Any]]:
    """Those of whole lines; a line that a kill has torn is none."""
    parsed = (_parsed(line) for line in content.split(b"\n"))
    return [one for one in parsed if isinstance(one, dict) and isinstance(one.get("file"), str)]


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None

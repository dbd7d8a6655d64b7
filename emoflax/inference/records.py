"""The records of predictions on disk: written as it goes, gone on with after an interruption.

While a command is at work, `<output>.unfinished` stands beside its output and names the model. The same command started
again keeps the rows of that file and predicts the rest; a finished output is written anew. A file that is predicted in
windows has several rows; those of the last one are not kept, because a kill may have come between them.

A Parquet file cannot grow: until all is done its rows are JSON lines in `<output>.jsonl`.
"""

import contextlib
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

from absl import logging

from emoflax.errors import UserError
from emoflax.files import write_whole
from emoflax.inference import formats

_REASONS = 5  # of files that could not be used, which are shown at the end


def check_place(output: pathlib.Path) -> None:
    """Before any work.

    Raises:
      UserError: nothing can be written there, or what writes it is not installed.
    """
    formats.check_installed(output)
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
      output: their file, a table if it ends in .csv or .parquet, else JSON lines; None: they are only counted.
      description: of the model; rows of another model's unfinished output are not kept.
      inputs: files that the command is about.
      labels: of the emotions: names of a table's columns.

    Attributes:
      earlier: files that an interrupted command dealt with.
      failures: how many files could not be used.
      reasons: of the first of them, what was wrong.
    """

    def __init__(
        self, output: pathlib.Path | None, description: dict, inputs: Sequence[pathlib.Path],
        labels: Sequence[str] = (),
    ):  # fmt: skip
        self.earlier: set[str] = set()
        self.failures, self.reasons = 0, []
        self._unwritten: list[str] = []  # reasons that no output file keeps
        self._file, self._output, self._mark, self._labels = None, output, None, labels
        if output is None:
            return
        self._rows = output.with_name(f"{output.name}.jsonl") if formats.is_parquet(output) else output
        self._format = formats.of(output, labels)
        with self._writing():
            # A pipe or a terminal cannot be gone on with.
            if output.is_file() or not output.exists():
                self._mark = output.with_name(f"{output.name}.unfinished")
                self._go_on(hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest(), inputs)
            self._file = self._rows.open("a" if self._mark else "w", encoding="utf-8", errors="backslashreplace")

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._file is None:
            return
        with self._writing() if kind is None else contextlib.suppress(OSError):  # whose cause was raised before
            self._file.close()
        if kind is None and self._rows != self._output:
            with self._writing():
                formats.to_parquet(self._rows, self._output, self._labels)
            self._rows.unlink()
        if kind is None and self._mark is not None:
            self._mark.unlink(missing_ok=True)

    def add(self, records: Sequence[dict[str, Any]]) -> None:
        """Writes records, so that they are kept whatever happens next.

        A record is {file, emotion, probabilities, ...} of a file or window, or {file, error} of a file that could not
        be used.
        """
        self._count(records)
        if self._file is not None:
            with self._writing():
                self._file.write(self._format.text(records))
                self._file.flush()

    def _count(self, records: Iterable[dict[str, Any]]) -> None:
        errors = [one["error"] for one in records if one.get("error")]
        self.failures += len(errors)
        self.reasons += errors[: max(0, _REASONS - len(self.reasons))]
        self._unwritten += errors if self._file is None else []

    def list_failures(self) -> pathlib.Path:
        """Writes why each file failed, a line each, into a temporary file; for a command without --output.

        Raises:
          OSError: no file can be made in the folder of temporary files.
        """
        with tempfile.NamedTemporaryFile(
            "w", prefix="emoflax-unreadable-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            file.writelines(f"{printable(reason)}\n" for reason in self._unwritten)
        return pathlib.Path(file.name)

    def _go_on(self, model: str, inputs: Sequence[pathlib.Path]) -> None:
        mark, kept = {"model": model}, []
        if formats.parsed_json(_content(self._mark)) == mark:
            wanted = {str(path) for path in inputs}
            there = self._format.read(_content(self._rows))
            torn = there[-1]["file"] if there and there[-1].get("start_s", "") != "" else None
            kept = [one for one in there if one["file"] in wanted and one["file"] != torn]
            self.earlier = {one["file"] for one in kept}
            self._count(kept)
            logging.info("%d of %d files were dealt with before: %s", len(self.earlier), len(inputs), self._output)
        with write_whole(self._rows) as file:
            file.write((self._format.head + self._format.text(kept)).encode(errors="backslashreplace"))
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

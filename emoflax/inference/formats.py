"""Records of predictions as JSON lines, CSV or Parquet, by the output's suffix.

A row of a table holds what a record holds, in the columns of `columns`; what a record does not have is empty.
"""

import csv
import io
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from emoflax.errors import UserError, optional
from emoflax.files import write_whole

_GROUP = 10_000  # rows of a Parquet file that are in memory at once
_TIMES = ("start_s", "end_s", "speech")  # columns of numbers, beside the probabilities
_MARKS = ("silent", "unsure")


class Format(Protocol):
    """How records lie in a file that grows, and is read again after an interruption."""

    head: str  # of a new file

    def text(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Records, or what `read` returned, as the file has them."""

    def read(self, content: bytes) -> list[dict[str, Any]]:
        """What is whole of a file: a row that a kill has torn is left out. What is empty in a table is ''."""


class JsonLines:
    """A JSON object per line."""

    head = ""

    def text(self, rows: Sequence[Mapping[str, Any]]) -> str:
        return "".join(json.dumps(row) + "\n" for row in rows)

    def read(self, content: bytes) -> list[dict[str, Any]]:
        parsed = map(parsed_json, content.split(b"\n"))
        return [one for one in parsed if isinstance(one, dict) and isinstance(one.get("file"), str)]


class Csv:
    """A table with one line of names. `labels`: of the emotions."""

    def __init__(self, labels: Sequence[str]):
        self._columns = columns(labels)
        self.head = self._lines([dict(zip(self._columns, self._columns, strict=True))])

    def text(self, rows: Sequence[Mapping[str, Any]]) -> str:
        return self._lines([row if row.keys() == set(self._columns) else flat(row) for row in rows])

    def read(self, content: bytes) -> list[dict[str, Any]]:
        whole = content[: content.rfind(b"\n") + 1].decode(errors="replace")
        rows = csv.DictReader(io.StringIO(whole, newline=""))
        return [row for row in rows if None not in row and None not in row.values()]

    def _lines(self, rows: Sequence[Mapping[str, Any]]) -> str:
        made = io.StringIO(newline="")
        writer = csv.DictWriter(made, self._columns, restval="", lineterminator="\n")
        writer.writerows(rows)
        return made.getvalue()


def columns(labels: Sequence[str]) -> list[str]:
    """Names of a table's columns."""
    return ["file", *_TIMES[:2], "silent", _TIMES[2], "emotion", *(f"p_{label}" for label in labels), "unsure",
            "notices", "trained_on", "error"]  # fmt: skip


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as a row of a table."""
    row = {name: value for name, value in record.items() if name not in ("probabilities", "notices")}
    row |= {f"p_{label}": p for label, p in (record.get("probabilities") or {}).items()}
    return row | {"notices": "; ".join(record.get("notices", ()))}


def is_parquet(output: pathlib.Path) -> bool:
    return output.suffix.lower() == ".parquet"


def check_installed(output: pathlib.Path) -> None:
    """Raises NotInstalled before any work."""
    if is_parquet(output):
        with optional(f"--output={output}", "parquet"):
            import pyarrow.parquet  # noqa: F401


def of(output: pathlib.Path, labels: Sequence[str]) -> Format:
    """How the file that grows is written. A Parquet file does not grow: its index is at its end; see `to_parquet`."""
    return Csv(labels) if output.suffix.lower() == ".csv" else JsonLines()


def to_parquet(lines: pathlib.Path, output: pathlib.Path, labels: Sequence[str]) -> None:
    """JSON lines as a Parquet file, whole or not at all; so many rows are in memory at once, not all.

    Raises:
      UserError: pyarrow cannot write them.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {name: pa.float64() for name in (*_TIMES, *(f"p_{label}" for label in labels))}
    kinds |= {name: pa.bool_() for name in _MARKS}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in columns(labels)])
    try:
        with write_whole(output) as file, pq.ParquetWriter(file, schema) as writer:
            for rows in _groups(lines):
                writer.write_table(pa.Table.from_pylist(rows, schema))
    except pa.ArrowException as error:
        raise UserError(f"cannot write {output}: {error}; the records are in {lines}") from error


def _groups(lines: pathlib.Path) -> Iterator[list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    with lines.open(encoding="utf-8") as file:
        for line in file:
            rows.append({name: _printable(value) for name, value in flat(json.loads(line)).items()})
            if len(rows) == _GROUP:
                yield rows
                rows = []
    yield rows


def _printable(value: Any) -> Any:
    """Names of files may hold bytes that are no text."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def parsed_json(text: bytes) -> Any:
    """What a text holds as JSON; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None

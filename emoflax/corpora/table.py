"""The one reader of CSV and JSONL files: rows of text cells, with the line number that an error needs."""

import csv
import dataclasses
import io
import json
import math
from pathlib import Path

from emoflax.corpora import cells
from emoflax.errors import UserError
from emoflax.files import parse_json

SUFFIXES = (".csv", ".jsonl")
_DELIMITERS = ",;\t|"  # in many countries spreadsheets write semicolons


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: `line` counts from 1, the header included; `cells` are stripped, keys in lower case.

    JSON's null and NaN are no cells. `emptied`: cells that stand for nothing, as they are written.
    """

    line: int
    cells: dict[str, str]
    emptied: dict[str, str] = dataclasses.field(default_factory=dict)


def read(path: Path) -> list[Row]:
    """All rows of a CSV (comma, semicolon, tab or |; first line names the columns) or JSONL file, UTF-8, -16 or -32.

    Raises:
      UserError: no such file, another ending, another text encoding, a malformed line, or a table without rows.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} must end in {' or '.join(SUFFIXES)}; the ending decides how it is read.")
    try:
        text = _decoded(path.read_bytes(), path)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    rows = _csv_rows(text, path) if path.suffix.lower() == ".csv" else _jsonl_rows(text, path)
    if not rows:
        raise UserError(f"{path} is empty: it needs one line per recording.")
    return rows


def _decoded(content: bytes, path: Path) -> str:
    """The text; UTF-16 and UTF-32 are recognised by the first bytes, with a byte order mark or without.

    Another encoding cannot be known, and is not guessed.
    """
    found = json.detect_encoding(content)
    encoding = "utf-8-sig" if found == "utf-8" else found  # which also reads it without the mark
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path} line {line} is not {encoding.removesuffix('-sig').upper()} text. Save the file as UTF-8"
            f"{'; it may be Latin-1 (Windows-1252) now.' if encoding == 'utf-8-sig' else '.'}"
        ) from error


def _csv_rows(text: str, path: Path) -> list[Row]:
    header = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        names = [_column(name) for name in next(reader, [])]
        if doubled := sorted({name for name in names if name and names.count(name) > 1}):
            raise UserError(f"{path} line 1 names the column '{doubled[0][:60]}' twice.")
        rows = []
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(names):
                raise UserError(
                    f"{path} line {reader.line_num} has {len(values)} cells where the first line names {len(names)} "
                    'columns. Put "double quotes" around a text that holds commas.'
                )
            told = {name: value.strip() for name, value in zip(names, values, strict=True)}
            rows.append(Row(reader.line_num, told))
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num} is not valid CSV: {error}.") from error
    return rows


def _jsonl_rows(text: str, path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):  # not splitlines: JSON may hold U+2028 unescaped
        if not line.strip():
            continue
        try:
            record = parse_json(line)
        except ValueError as error:
            raise UserError(f"{path} line {number} is not valid JSON: {getattr(error, 'msg', error)}.") from error
        if not isinstance(record, dict):
            raise UserError(f'{path} line {number} is not a JSON object, such as {{"file": ..., "emotion": ...}}.')
        told = {_column(key): _cell(value) for key, value in record.items() if _is_there(value)}
        rows.append(Row(number, told))
    return rows


def _column(name: str) -> str:
    """A column's name, without a second byte order mark or the like, which nobody would see."""
    return cells.without_invisible(name).strip().lower()


def _is_there(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _cell(value: object) -> str:
    """Numbers as a CSV holds them; columns that are not read may hold anything."""
    return value.strip() if isinstance(value, str) else json.dumps(value)

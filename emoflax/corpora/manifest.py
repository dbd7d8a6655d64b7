"""A user's own recordings, listed in a CSV or JSONL file: file,emotion,speaker[,text,split,start_s,end_s]."""

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from emoflax.corpora import labels as emotion_names
from emoflax.corpora import scan, table
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import UserError

# Column -> the names it may have; the first that exists is read: 'emotion' before a numeric 'label' beside it.
COLUMNS = {
    "file": ("file", "path", "wav", "file_name", "filename", "audio"),
    "emotion": ("emotion", "label", "emo"),
    "speaker": ("speaker", "speaker_id", "actor"),
    "text": ("text",),
    "split": ("split",),
    "start_s": ("start_s",),
    "end_s": ("end_s",),
}
SPLITS = {"train": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev", "test": "test"}


def load(file: str, cache_dir: str) -> Corpus:
    """The clips of the manifest `file`; paths in it are relative to its folder.

    Without a file column (or with an empty one) and with a text column it is a text-only corpus. Labels keep their
    names, in lower case, and are sorted.

    Raises:
      UserError: whatever is wrong in the file, with the line number.
    """
    del cache_dir  # all loaders have the same arguments
    path = scan.existing_file(file, "the CSV or JSONL file that lists the recordings (columns file, emotion, speaker)")
    rows = _with_plain_columns(table.read(path), path)
    emotions = _emotions(rows, path)
    speakers = [_required(row, "speaker", path) for row in rows]
    clips = _clips(rows, emotions, speakers, path)
    if len(set(speakers)) < 2:
        raise UserError(f"{path} has one speaker only, '{speakers[0]}': a model cannot be tested on another speaker.")
    stem = re.sub(r"[^\w.-]+", "-", path.stem).strip("-.") or "file"
    return Corpus(f"manifest-{stem}", tuple(sorted(set(emotions))), tuple(sorted(clips, key=lambda clip: clip.id)))


def _with_plain_columns(rows: Sequence[table.Row], path: Path) -> list[table.Row]:
    """The rows with the columns of COLUMNS only, under their first names. A missing column is an error."""
    present = {name for row in rows for name in row.cells}
    used = {column: next((a for a in aliases if a in present), None) for column, aliases in COLUMNS.items()}
    for column in ("emotion", "speaker"):
        if used[column] is None:
            _refuse_column(column, present, path)
    if used["file"] is None and used["text"] is None:
        _refuse_column("file", present, path)
    plain = []
    for row in rows:
        cells = {column: row.cells.get(alias, "") for column, alias in used.items() if alias}
        plain.append(table.Row(row.line, {column: value for column, value in cells.items() if value}))
    return plain


def _refuse_column(column: str, present: set[str], path: Path) -> None:
    raise UserError(
        f"{path} line 1 has no column '{column}' (or {', '.join(COLUMNS[column][1:])}); "
        f"its columns are {', '.join(sorted(present)) or 'none'}."
    )


def _required(row: table.Row, column: str, path: Path) -> str:
    if column not in row.cells:
        raise UserError(f"{path} line {row.line} has no {column}.")
    return row.cells[column]


def _emotions(rows: Sequence[table.Row], path: Path) -> list[str]:
    """The label of each row: at least two classes, none of them a typing error."""
    written = [emotion_names.normalise(_required(row, "emotion", path)) for row in rows]
    counts = Counter(written)
    for typo, meant in emotion_names.typos(counts).items():
        line = rows[written.index(typo)].line
        rest = sorted(counts.keys() - {typo})
        hint = f"did you mean '{meant}'?" if meant else f"the others are {', '.join(rest[:10])}."
        raise UserError(f"{path} line {line} has the unknown label '{typo}' ({counts[typo]} clips): {hint}")
    name_of = emotion_names.merged(counts)
    for label, name in name_of.items():
        if label != name:
            logging.warning("%s: '%s' and '%s' are taken as one emotion, '%s'.", path, label, name, name)
    emotions = [name_of[label] for label in written]
    if len(set(emotions)) < 2:
        raise UserError(f"{path} has one emotion only, '{emotions[0]}': a classifier needs two or more.")
    return emotions


def _clips(rows: Sequence[table.Row], emotions: Sequence[str], speakers: Sequence[str], path: Path) -> list[Clip]:
    files = _files(rows, path)
    texts = _texts(rows, files is not None, path)
    splits = _splits(rows, path)
    spans = [_span(row, path) for row in rows]
    ids = _ids(rows, files, spans, path)
    clips = []
    for number, clip_id in enumerate(ids):
        audio = files[number] if files else None
        start_s, end_s = spans[number]
        clips.append(
            Clip(clip_id, emotions[number], speakers[number], audio, texts[number], splits[number], start_s, end_s)
        )
    return clips


def _files(rows: Sequence[table.Row], path: Path) -> list[str] | None:
    """Absolute paths, all of which exist, or None for a text-only corpus."""
    if not any("file" in row.cells for row in rows):
        return None
    folder = path.resolve().parent
    files = [os.path.normpath(folder / scan.expanded(_required(row, "file", path))) for row in rows]
    missing = [number for number, file in enumerate(files) if not os.path.isfile(file)]
    if missing:
        first = ", ".join(f"{rows[number].cells['file'][:200]} (line {rows[number].line})" for number in missing[:3])
        raise UserError(
            f"{len(missing)} of the {len(files)} files that {path} lists are missing: {first}"
            f"{', ...' if len(missing) > 3 else ''}. Relative paths start at {folder}."
        )
    return files


def _texts(rows: Sequence[table.Row], has_audio: bool, path: Path) -> list[str | None]:
    if not has_audio:
        return [_required(row, "text", path) for row in rows]
    if not any("text" in row.cells for row in rows):
        return [None] * len(rows)
    if empty := [row.line for row in rows if "text" not in row.cells]:
        lines = f"line {', '.join(map(str, empty[:3]))}{', ...' if len(empty) > 3 else ''}"
        logging.warning("%s: %d clips without a text (%s) count as having no words.", path, len(empty), lines)
    return [row.cells.get("text", "") for row in rows]


def _splits(rows: Sequence[table.Row], path: Path) -> list[str | None]:
    """The given split of every row, or None for all of them."""
    if not any("split" in row.cells for row in rows):
        return [None] * len(rows)
    splits = []
    for row in rows:
        value = _required(row, "split", path).lower()
        if value not in SPLITS:
            raise UserError(f"{path} line {row.line} has the split '{value}'; allowed are train, dev (val) and test.")
        splits.append(SPLITS[value])
    return splits


def _span(row: table.Row, path: Path) -> tuple[float, float | None]:
    """(start_s, end_s) of one row; 0 and None where the cells are empty."""
    seconds = {}
    for column in ("start_s", "end_s"):
        value = row.cells.get(column, "")
        try:
            seconds[column] = float(value) if value else None
        except ValueError:
            seconds[column] = math.nan
        if value and not 0 <= seconds[column] < math.inf:
            raise UserError(f"{path} line {row.line} has {column} '{value[:200]}', which is no number of seconds.")
    start_s, end_s = seconds["start_s"] or 0.0, seconds["end_s"]
    if end_s is not None and start_s >= end_s:
        raise UserError(f"{path} line {row.line} starts at {start_s:g} s and ends at {end_s:g} s: the end comes first.")
    return start_s, end_s


def _ids(
    rows: Sequence[table.Row],
    files: Sequence[str] | None,
    spans: Sequence[tuple[float, float | None]],
    path: Path,
) -> list[str]:
    """One id per row: the file's path without its ending, relative to the folder common to all, and the part of it.

    Text-only rows are numbered by line, since two people may say the same words.
    """
    if files is None:
        return [f"line-{row.line:06d}" for row in rows]
    folder = str(path.resolve().parent)
    if os.path.commonpath([folder, *files]) != folder:
        folder = os.path.commonpath([os.path.dirname(file) for file in files])
    ids, line_of = [], {}
    for row, file, (start_s, end_s) in zip(rows, files, spans, strict=True):
        clip_id = os.path.splitext(os.path.relpath(file, folder))[0].replace(os.sep, "/")
        if start_s or end_s is not None:
            clip_id += f"#{start_s}-{'' if end_s is None else end_s}"
        if clip_id in line_of:
            raise UserError(
                f"{path} lines {line_of[clip_id]} and {row.line} name the same recording, {clip_id} "
                "(a file's ending does not count). Remove one."
            )
        line_of[clip_id] = row.line
        ids.append(clip_id)
    return ids

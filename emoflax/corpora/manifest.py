"""A user's own recordings, listed in a CSV or JSONL file: file,emotion[,speaker,text,split,start_s,end_s]."""

import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from absl import logging

from emoflax.corpora import cells, scan, table
from emoflax.corpora import labels as emotion_names
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import UserError
from emoflax.files import expanded

# Column -> the names it may have; the first that exists is read: 'emotion' before a numeric 'label' beside it.
COLUMNS = {
    "file": ("file", "path", "filepath", "file_path", "wav", "file_name", "filename", "audio"),
    "emotion": ("emotion", "emotions", "label", "labels", "emo"),
    "speaker": ("speaker", "speaker_id", "actor"),
    "text": ("text",),
    "split": ("split",),
    "start_s": ("start_s", "start"),
    "end_s": ("end_s", "end"),
}
_LONGEST_NAME = 200  # characters of an emotion, a speaker, a split or a time
SPLITS = {"train": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev", "test": "test"}


def load(file: str, cache_dir: str, *, root: str = "", known_labels: Collection[str] = ()) -> Corpus:
    """The clips of the manifest `file`.

    Without a file column (or with an empty one) and with a text column it is a text-only corpus. Without a speaker
    column every clip's speaker is ''. Labels keep their names, in lower case, and are sorted.

    Args:
      root: folder that relative paths start at; '': the manifest's.
      known_labels: that are no typing errors, whatever they resemble.

    Raises:
      UserError: whatever is wrong in the file, with the line number.
    """
    del cache_dir  # all loaders have the same arguments
    path = scan.existing_file(file, "the CSV or JSONL file that lists the recordings (columns file, emotion, speaker)")
    rows = _with_plain_columns(table.read(path), path)
    emotions = _emotions(rows, path, {emotion_names.normalise(label) for label in known_labels})
    speakers = _speakers(rows, path)
    folder = path.resolve().parent if not root else _root(root)
    clips = _clips(rows, emotions, speakers, path, folder)
    stem = re.sub(r"[^\w.-]+", "-", path.stem).strip("-.") or "file"
    return Corpus(f"manifest-{stem}", tuple(sorted(set(emotions))), tuple(sorted(clips, key=lambda clip: clip.id)))


def _root(root: str) -> Path:
    try:
        folder = Path(scan.on_disk(expanded(root))).resolve()
    except UserError as error:
        raise UserError(f"--config.data.root={error}") from error
    if not folder.is_dir():
        raise UserError(f"--config.data.root={root} is no folder; paths in a manifest start at it")
    return folder


def _with_plain_columns(rows: Sequence[table.Row], path: Path) -> list[table.Row]:
    """The rows with the columns of COLUMNS only, under their first names. A missing column is an error."""
    present = {name for row in rows for name in row.cells}
    used = {column: next((a for a in aliases if a in present), None) for column, aliases in COLUMNS.items()}
    if used["emotion"] is None:
        _refuse_column("emotion", present, path)
    if used["file"] is None and used["text"] is None:
        _refuse_column("file", present, path)
    if unused := sorted(name for name in present - set(used.values()) if name):
        logging.info("%s: columns that are not used: %s", path, _few(unused))
    plain = []
    for row in rows:
        told = {column: row.cells.get(alias, "") for column, alias in used.items() if alias}
        emptied = {column: value for column, value in told.items() if column != "text" and cells.is_empty(value)}
        values = {column: _plain(row.line, column, told[column], path) for column in told.keys() - emptied.keys()}
        plain.append(table.Row(row.line, {column: value for column, value in values.items() if value}, emptied))
    return plain


def _plain(line: int, column: str, value: str, path: Path) -> str:
    """The cell with accents composed and single spaces; a path as it is, whose name on disk may be no text."""
    if column == "file":
        return value
    if column == "text":
        name, longest = unicodedata.normalize("NFC", value), math.inf
    else:
        name, longest = " ".join(value.split()), _LONGEST_NAME
    if character := cells.broken_character(value, is_text=column == "text"):
        raise UserError(
            f"{path} line {line} has the character {character} in its {column}, which a damaged text has. Correct the "
            "cell, or save the file as UTF-8 again from the program that wrote it."
        )
    if len(name) > longest:
        raise UserError(
            f"{path} line {line} has {len(name)} characters in its {column}; {_LONGEST_NAME} are allowed. Is the "
            "separator of the columns, or a quote, missing?"
        )
    # Invisible characters of speakers stay: `_speakers` reports names that differ in them alone.
    return unicodedata.normalize("NFC", name) if column in ("text", "speaker") else cells.without_invisible(name)


def _speakers(rows: Sequence[table.Row], path: Path) -> list[str]:
    """The speaker of each row; '' for all where no row has one.

    Raises:
      UserError: an empty cell, or two names that differ only in capitals, spaces, zeros or invisible characters.
    """
    if not any("speaker" in row.cells for row in rows):
        logging.warning(
            "%s does not say who speaks (no column %s): speakers may be in training and in test",
            path, " or ".join(COLUMNS["speaker"]),
        )  # fmt: skip
        return [""] * len(rows)
    speakers = [_required(row, "speaker", path) for row in rows]
    alike: dict[str, list[str]] = {}
    for name in sorted(set(speakers)):
        alike.setdefault(cells.spelling(name), []).append(name)
    if pairs := [" = ".join(map(repr, names)) for names in alike.values() if len(names) > 1]:
        raise UserError(
            f"{path} has {len(pairs)} speakers under several spellings, who would be in training and in test: "
            f"{'; '.join(pairs[:20])}{'; ...' if len(pairs) > 20 else ''}. Write each in one way, or, if they "
            "are several people, give them names that differ in a letter or a number."
        )
    return speakers


def _refuse_column(column: str, present: set[str], path: Path) -> None:
    raise UserError(
        f"{path} line 1 has no column '{column}' (or {', '.join(COLUMNS[column][1:])}); "
        f"its columns are {_few(present) or 'none'}."
    )


def _few(names: Collection[str]) -> str:
    """Names of columns for a sentence: a damaged table may have thousands, or one of thousands of characters."""
    listed = ", ".join(name[:60] + "..." * (len(name) > 60) for name in sorted(names)[:20])
    return listed + ", ..." * (len(names) > 20)


def _required(row: table.Row, column: str, path: Path) -> str:
    if column not in row.cells:
        written = f" ({row.emptied[column]!r} counts as an empty cell)" if row.emptied.get(column) else ""
        raise UserError(f"{path} line {row.line} has no {column}{written}.")
    return row.cells[column]


def _emotions(rows: Sequence[table.Row], path: Path, known: Collection[str]) -> list[str]:
    """The label of each row: at least two classes, none of them a typing error."""
    written = [emotion_names.normalise(_required(row, "emotion", path)) for row in rows]
    counts = Counter(written)
    for typo, meant in emotion_names.typos(counts, known).items():
        line = rows[written.index(typo)].line
        rest = sorted(counts.keys() - {typo})
        hint = f"did you mean '{meant}'?" if meant else f"the others are {', '.join(rest[:10])}."
        raise UserError(
            f"{path} line {line} has the unknown label '{typo}' ({counts[typo]} clips): {hint} If it is meant, or to "
            f"""correct it here: --config.data.labels="{{'{typo}': '{meant or typo}'}}"."""
        )
    name_of = emotion_names.merged(counts)
    for label, name in name_of.items():
        if label != name:
            logging.warning("%s: '%s' and '%s' are taken as one emotion, '%s'.", path, label, name, name)
    emotions = [name_of[label] for label in written]
    if len(set(emotions)) < 2:
        raise UserError(f"{path} has one emotion only, '{emotions[0]}': a classifier needs two or more.")
    return emotions


def _clips(
    rows: Sequence[table.Row], emotions: Sequence[str], speakers: Sequence[str], path: Path, folder: Path
) -> list[Clip]:
    files = _files(rows, path, folder)
    texts = _texts(rows, files is not None, path)
    splits = _splits(rows, path)
    spans = [_span(row, path) for row in rows]
    ids = _ids(rows, files, spans, path, folder)
    clips = []
    for number, clip_id in enumerate(ids):
        audio = files[number] if files else None
        start_s, end_s = spans[number]
        clips.append(
            Clip(clip_id, emotions[number], speakers[number], audio, texts[number], splits[number], start_s, end_s)
        )
    return clips


def _files(rows: Sequence[table.Row], path: Path, folder: Path) -> list[str] | None:
    """Absolute paths, all of which exist, or None for a text-only corpus."""
    if not any("file" in row.cells for row in rows):
        return None
    files = [_place(row, path, folder) for row in rows]
    missing = [number for number, file in enumerate(files) if not os.path.isfile(file)]
    if missing:
        first = ", ".join(f"{_shown(rows[number].cells['file'])} (line {rows[number].line})" for number in missing[:3])
        raise UserError(
            f"{len(missing)} of the {len(files)} files that {path} lists are missing: {first}"
            f"{', ...' if len(missing) > 3 else ''}. Relative paths start at {folder}; --config.data.root sets another "
            "folder."
        )
    return files


def _shown(file: str) -> str:
    """A name for a sentence; what cannot be seen in it, as an escape."""
    return file[:200] if file.isprintable() else repr(file[:200])


def _place(row: table.Row, path: Path, folder: Path) -> str:
    file = _required(row, "file", path)
    try:
        return scan.on_disk(os.path.normpath(folder / expanded(file)))
    except UserError as error:
        raise UserError(f"{path} line {row.line}: {error}") from error


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
    seconds = {column: cells.seconds(row.cells[column]) for column in ("start_s", "end_s") if column in row.cells}
    for column, value in seconds.items():
        if not 0 <= value < math.inf:
            raise UserError(
                f"{path} line {row.line} has {column} '{row.cells[column][:200]}', which is no number of "
                "seconds and no time such as 0 days 00:00:01.5."
            )
    start_s, end_s = seconds.get("start_s", 0.0), seconds.get("end_s")
    if end_s is not None and start_s >= end_s:
        raise UserError(f"{path} line {row.line} starts at {start_s:g} s and ends at {end_s:g} s: the end comes first.")
    return start_s, end_s


def _ids(
    rows: Sequence[table.Row],
    files: Sequence[str] | None,
    spans: Sequence[tuple[float, float | None]],
    path: Path,
    folder: Path,
) -> list[str]:
    """One id per row: the file's path without its ending, relative to the folder common to all, and the part of it.

    Text-only rows are numbered by line, since two people may say the same words.
    """
    if files is None:
        return [f"line-{row.line:06d}" for row in rows]
    common = str(folder)
    if os.path.commonpath([common, *files]) != common:
        common = os.path.commonpath([os.path.dirname(file) for file in files])
    ids, line_of = [], {}
    for row, file, (start_s, end_s) in zip(rows, files, spans, strict=True):
        relative = unicodedata.normalize("NFC", os.path.relpath(file, common))
        clip_id = os.path.splitext(relative)[0].replace(os.sep, "/")
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

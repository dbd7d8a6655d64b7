"""Recordings in a folder, for training and for prediction; and one of each where a corpus contains them twice."""

import dataclasses
import filecmp
import functools
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from absl import logging

from emoflax.data.clip import RECORDING_SUFFIXES
from emoflax.errors import UserError
from emoflax.files import expanded


def existing_folder(folder: str, what: str) -> Path:
    """The folder that `config.data.dir` names; `what` describes in errors what the field must name."""
    return _existing(folder, what, Path.is_dir)


def existing_file(file: str, what: str) -> Path:
    """As `existing_folder`, for a file."""
    return _existing(file, what, Path.is_file)


def _existing(name: str, what: str, of_kind: Callable[[Path], bool]) -> Path:
    if not name:
        raise UserError(f"--config.data.dir is empty: set it to {what}.")
    path = Path(on_disk(expanded(name)))
    if not of_kind(path):
        state = "is a folder" if path.is_dir() else "is a file" if path.exists() else "does not exist"
        raise UserError(f"--config.data.dir={name} {state}: set it to {what}.")
    return path


def on_disk(path: str | os.PathLike[str]) -> str:
    """The path as it is on disk, where each name in it may be in NFC or NFD: macOS decomposes accents."""
    whole = os.fspath(path)
    if whole.isascii() or os.path.lexists(whole):
        return whole
    folder, name = os.path.split(whole)
    if not name or folder == whole:
        return whole
    folder = on_disk(folder)
    return os.path.join(folder, _as_on_disk(folder, name))


def _as_on_disk(folder: str, name: str) -> str:
    if name.isascii() or os.path.lexists(os.path.join(folder, name)):
        return name
    try:
        there = _composed_names(folder, os.stat(folder).st_mtime_ns)
    except OSError:
        return name
    return there.get(unicodedata.normalize("NFC", name), name)


@functools.lru_cache(maxsize=4096)
def _composed_names(folder: str, changed_ns: int) -> dict[str, str]:
    """NFC name -> name on disk, of what is in a folder; cached, since a list may name thousands of files in one."""
    return {unicodedata.normalize("NFC", name): name for name in sorted(os.listdir(folder), reverse=True)}


@dataclasses.dataclass
class Search:
    """What is in a folder and the folders in it.

    Attributes:
      files: paths with one of the endings that were looked for, sorted.
      passed_over: how many other files there are, by ending; 'hidden' for those whose name begins with a dot.
      unreadable: folders that cannot be listed, and why.
    """

    files: list[str] = dataclasses.field(default_factory=list)
    passed_over: Counter[str] = dataclasses.field(default_factory=Counter)
    unreadable: dict[str, str] = dataclasses.field(default_factory=dict)

    def sentence(self, folder: str | os.PathLike[str]) -> str:
        """What was passed over, in one line; '' if nothing was."""
        if not self.passed_over:
            return ""
        parts = ", ".join(f"{count} {kind}" for kind, count in self.passed_over.most_common(8))
        more = ", ..." if len(self.passed_over) > 8 else ""
        return f"{folder}: {len(self.files)} recordings; passed over: {parts}{more}"


def search(folder: str | os.PathLike[str], suffixes: tuple[str, ...] = RECORDING_SUFFIXES) -> Search:
    """Looks for files with one of these endings (in any case); symbolic links are followed, but not in circles.

    Hidden files are left out: macOS puts a `._name.wav` that holds no sound beside every `name.wav`. So are hidden
    folders, such as `.git`. A folder that several links lead to is searched once under its own name and once under one
    of theirs.
    """
    result, seen = Search(), set()
    todo: list[tuple[str, tuple[tuple[int, int], ...], bool]] = [(os.fspath(folder), (), False)]
    while todo:  # folder, device and number of those above it, whether a link leads to it
        place, above, linked = todo.pop()
        try:
            state = os.stat(place)
            real = state.st_dev, state.st_ino
            if real in above or (real, linked) in seen:
                continue
            seen.add((real, linked))
            with os.scandir(place) as entries:
                folders = _sort(list(entries), suffixes, result)
        except OSError as error:
            result.unreadable[place] = error.strerror or str(error)
            continue
        todo += [(entry.path, (*above, real), linked or entry.is_symlink()) for entry in folders]
    result.files.sort()
    return result


def _sort(entries: list[os.DirEntry[str]], suffixes: tuple[str, ...], result: Search) -> list[os.DirEntry[str]]:
    """Puts the files where they belong and returns the folders to be searched."""
    folders = []
    for entry in entries:
        if _is_folder(entry):
            folders += [] if entry.name.startswith(".") or entry.name == "__MACOSX" else [entry]
        elif entry.name.startswith("."):
            result.passed_over["hidden"] += 1
        elif entry.name.lower().endswith(suffixes):
            result.files.append(entry.path)
        else:
            result.passed_over[os.path.splitext(entry.name)[1].lower() or "without an ending"] += 1
    return folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def files(folder: Path, suffixes: tuple[str, ...] = RECORDING_SUFFIXES, *, quiet: bool = False) -> list[str]:
    """The paths of `search`; what it passed over is logged in one line, unless `quiet`.

    Raises:
      UserError: a folder cannot be read.
    """
    result = search(folder, suffixes)
    for place, reason in result.unreadable.items():
        raise UserError(f"Cannot read the folder {place}: {reason}.")
    if not quiet and (sentence := result.sentence(folder)):
        logging.info("%s", sentence)
    return result.files


def one_of_each(clips: Iterable[tuple[str, str]]) -> dict[str, str]:
    """{id: path} from (id, path) pairs: of several formats, that which comes first in `RECORDING_SUFFIXES`.

    Of one format the first path; a second file must be identical. Only files of ids that occur twice are read, so a
    corpus without doubles costs nothing.

    Raises:
      UserError: two files of one id and one format differ.
    """
    kept: dict[str, str] = {}
    doubles = other_formats = 0
    for clip_id, path in clips:
        first = kept.setdefault(clip_id, path)
        if first == path:
            continue
        if _rank(first) != _rank(path):  # such as the .sph files that a corpus's .wav files were converted from
            kept[clip_id] = min(first, path, key=_rank)
            other_formats += 1
            continue
        if not filecmp.cmp(first, path, shallow=False):
            raise UserError(
                f"Two files are named like clip {clip_id} but differ: {first} and {path}. Remove one of them, "
                "or set --config.data.dir to a folder with one of them."
            )
        doubles += 1
    if doubles:
        logging.info("%d clips exist more than once with the same content; each is used once.", doubles)
    if other_formats:
        logging.info("%d files have the name of a clip in another format, and are passed over.", other_formats)
    return kept


def _rank(path: str) -> int:
    return RECORDING_SUFFIXES.index(os.path.splitext(path)[1].lower())

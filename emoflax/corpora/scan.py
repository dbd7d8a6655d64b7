"""Finding recordings in a folder, and keeping one of each where a copy of the corpus contains them twice."""

import filecmp
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from absl import logging

from emoflax.data.clip import RECORDING_SUFFIXES
from emoflax.errors import UserError


def existing_folder(folder: str, what: str) -> Path:
    """The folder that `config.data.dir` names; `what` describes in errors what the field must name."""
    return _existing(folder, what, Path.is_dir)


def existing_file(file: str, what: str) -> Path:
    """As `existing_folder`, for a file."""
    return _existing(file, what, Path.is_file)


def _existing(name: str, what: str, of_kind: Callable[[Path], bool]) -> Path:
    if not name:
        raise UserError(f"--config.data.dir is empty: set it to {what}.")
    path = Path(name).expanduser()
    if not of_kind(path):
        state = "is a folder" if path.is_dir() else "is a file" if path.exists() else "does not exist"
        raise UserError(f"--config.data.dir={name} {state}: set it to {what}.")
    return path


def files(folder: Path, suffixes: tuple[str, ...] = RECORDING_SUFFIXES) -> list[str]:
    """Paths under the folder with one of these endings (in any case), sorted; symbolic links are followed.

    Hidden files are left out: macOS puts a `._name.wav` that holds no sound beside every `name.wav`.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"Cannot read the folder {error.filename}: {error.strerror}.") from error

    paths, seen = [], set()
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link back up the tree would be followed for ever
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        kept = (name for name in names if name.lower().endswith(suffixes) and not name.startswith("."))
        paths.extend(os.path.join(root, name) for name in kept)
    return sorted(paths)


def one_of_each(clips: Iterable[tuple[str, str]]) -> dict[str, str]:
    """{id: path} from (id, path) pairs, the first path of each id; a second file must be identical.

    Only files of ids that occur twice are read, so a corpus without doubles costs nothing.
    """
    kept: dict[str, str] = {}
    doubles = 0
    for clip_id, path in clips:
        first = kept.setdefault(clip_id, path)
        if first == path:
            continue
        if not filecmp.cmp(first, path, shallow=False):
            raise UserError(
                f"Two files are named like clip {clip_id} but differ: {first} and {path}. Remove one of them, "
                "or set --config.data.dir to a folder with one of them."
            )
        doubles += 1
    if doubles:
        logging.info("%d clips exist more than once with the same content; each is used once.", doubles)
    return kept

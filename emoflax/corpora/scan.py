"""Finding recordings in a folder, and keeping one of each where a copy of the corpus holds them twice."""

import filecmp
import os
from collections.abc import Iterable
from pathlib import Path

from absl import logging

from emoflax.data.clip import RECORDING_SUFFIXES
from emoflax.errors import UserError


def existing_folder(folder: str, what: str) -> Path:
    """The folder that `config.data.dir` names; `what` says in the error what it should hold."""
    if not folder:
        raise UserError(f"--config.data.dir is empty: set it to {what}.")
    path = Path(folder).expanduser()
    if not path.is_dir():
        state = "is not a folder" if path.exists() else "does not exist"
        raise UserError(f"--config.data.dir={folder} {state}: set it to {what}.")
    return path


def files(folder: Path, suffixes: tuple[str, ...] = RECORDING_SUFFIXES) -> list[str]:
    """Paths under the folder with one of these endings (in any case), sorted; symbolic links are followed.

    Hidden files are left out: macOS puts a `._name.wav` that holds no sound beside every `name.wav`.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"Cannot read the folder {error.filename}: {error.strerror}.") from error

    found, seen = [], set()
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link back up the tree would be walked for ever
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        kept = (name for name in names if name.lower().endswith(suffixes) and not name.startswith("."))
        found.extend(os.path.join(root, name) for name in kept)
    return sorted(found)


def one_of_each(found: Iterable[tuple[str, str]]) -> dict[str, str]:
    """{id: path} from (id, path) pairs, the first path of each id; a second one must hold the very same bytes.

    Only ids that come twice are read from disk, so a corpus without doubles costs nothing.
    """
    kept: dict[str, str] = {}
    doubles = 0
    for clip_id, path in found:
        first = kept.setdefault(clip_id, path)
        if first == path:
            continue
        if not filecmp.cmp(first, path, shallow=False):
            raise UserError(
                f"Two files claim to be clip {clip_id} but differ: {first} and {path}. Remove one of them, "
                "or set --config.data.dir to the folder that is meant."
            )
        doubles += 1
    if doubles:
        logging.info("%d clips were there more than once with the same content; each is used once.", doubles)
    return kept

"""The folder that a command writes its results into."""

import pathlib

from emoflax.errors import UserError


def make_folder(folder: pathlib.Path) -> None:
    """Raises UserError where the folder cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; choose another --workdir") from error

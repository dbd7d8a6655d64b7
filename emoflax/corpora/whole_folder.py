"""Folders of recordings that this program writes, with an index: complete, or not there."""

import shutil
from collections.abc import Callable
from pathlib import Path

import filelock

from emoflax.corpora import download, table
from emoflax.errors import UserError

INDEX = "clips.csv"


def make(folder: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` with an empty folder, which is then renamed to `folder`; does nothing where `folder` exists.

    Raises:
      UserError: the folder cannot be written.
    """
    half = folder.with_name(folder.name + ".part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_name(folder.name + ".lock")):  # runs that share a cache wait for each other
            if folder.exists():
                return
            shutil.rmtree(half, ignore_errors=True)  # left by a killed run
            try:
                half.mkdir()
                write(half)
                half.rename(folder)
            finally:
                shutil.rmtree(half, ignore_errors=True)  # frees the disk space
    except OSError as error:
        raise download.cannot_write(folder, error) from error


def read_index(folder: Path) -> list[dict[str, str]]:
    """The cells of every line of the folder's index.

    Raises:
      UserError: there is none, or it is damaged.
    """
    try:
        return [row.cells for row in table.read(folder / INDEX)]
    except UserError as error:
        raise UserError(f"{error} Delete the folder {folder}, and the next run writes it again.") from error

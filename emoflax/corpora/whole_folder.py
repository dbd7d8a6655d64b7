"""Folders of recordings that this program makes: there whole, or not at all."""

import shutil
from collections.abc import Callable
from pathlib import Path

import filelock

from emoflax.corpora import download


def make(folder: Path, write: Callable[[Path], None]) -> None:
    """Has `write` fill an empty folder, which then takes the name `folder`; does nothing where that is there already.

    Raises:
      UserError: the folder cannot be written.
    """
    half = folder.with_name(folder.name + ".part")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_name(folder.name + ".lock")):  # runs that share a cache wait for one another
            if folder.exists():
                return
            shutil.rmtree(half, ignore_errors=True)  # left by a killed run
            try:
                half.mkdir()
                write(half)
                half.rename(folder)
            finally:
                shutil.rmtree(half, ignore_errors=True)  # gives the disk space back
    except OSError as error:
        raise download.cannot_write(folder, error) from error

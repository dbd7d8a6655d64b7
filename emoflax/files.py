"""Folders and files on disk: made with an error that a person can act on, and written whole or not at all."""

import contextlib
import hashlib
import json
import os
import tempfile
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from emoflax.errors import UserError


def expanded(name: str) -> Path:
    """The path with `~` and `~user` replaced.

    Raises:
      UserError: there is no such user.
    """
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{name}: there is no such user, or the home is not known; write the path in full, or ./{name} if it is a "
            "file of that name."
        ) from error


def make_folder(folder: Path, flag: str = "--workdir") -> None:
    """Makes the folder and its parents. `flag`: where a person chooses another one.

    Raises:
      UserError: the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; choose another {flag}") from error


@contextlib.contextmanager
def naming(path: Path, flag: str = "--workdir") -> Iterator[None]:
    """Around the writing of a file: the system's error at a full disk names none. `flag`: as of `make_folder`.

    Raises:
      UserError: the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; make room there or choose another {flag}; what was "
            "finished is kept, and the same command goes on from it"
        ) from error


@contextlib.contextmanager
def write_whole(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that appears under its name whole or not at all, even if another process writes it as well."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the name without the bytes
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def parse_json(text: str | bytes) -> Any:
    """As `json.loads`, with ValueError for all that it cannot read, such as what is nested too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def read_json(path: Path, kind: type = dict, *, mend: str) -> Any:
    """What a JSON file holds: a dict, unless `kind` says otherwise.

    Args:
      mend: what to do about a damaged file, for the error.

    Raises:
      UserError: it holds something else, or no JSON.
      OSError: it cannot be read.
    """
    try:
        found = parse_json(path.read_bytes())
        if not isinstance(found, kind):
            raise ValueError(f"a {kind.__name__} is expected in it")
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); {mend}") from error
    return found


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz file by name.

    Raises:
      ValueError: it is damaged, or cannot be read.
    """
    try:
        with np.load(path) as arrays:
            return dict(arrays)
    except (OSError, ValueError, LookupError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(str(error)) from error


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_writable(folder: Path) -> bool:
    """Whether files can be made in it, by trying: access rights do not show a read-only file system. It is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True

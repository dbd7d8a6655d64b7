"""SHA-256 of every file of a folder, in a file of that folder.

The file is in the format of `sha256sum`, so `sha256sum -c SHA256SUMS` checks a checkpoint without this program. Its
first line, a comment to `sha256sum`, holds the checksum of the other lines: damage to the list itself is noticed too.
"""

import hashlib
from pathlib import Path

from emoflax.errors import UserError
from emoflax.files import sha256, write_whole

NAME = "SHA256SUMS"


class Damaged(Exception):
    """A file is missing, or holds other bytes than were written.

    Attributes:
      file: its path.
      problem: what is wrong with it.
    """

    def __init__(self, file: Path, problem: str):
        super().__init__(f"{file} is damaged: {problem}")
        self.file, self.problem = file, problem


def write(folder: Path) -> None:
    """Writes the checksums of all files below `folder`, and makes sure that they are on disk before it returns."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != NAME)
    lines = "".join(f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files).encode()
    with write_whole(folder / NAME) as file:
        file.write(f"# {hashlib.sha256(lines).hexdigest()}\n".encode() + lines)


def exist(folder: Path) -> bool:
    return (folder / NAME).exists()


def verify(folder: Path, below: str = "") -> None:
    """Reads every file of `folder`, or those whose path in it begins with `below`, and compares checksums.

    About 1 s per GB. Files that came later than the checksums are not looked at.

    Raises:
      Damaged: a file is missing or holds other bytes; the first one is named.
      UserError: a file cannot be read, which says nothing about its bytes.
    """
    for line in _lines(folder):
        checksum, _, name = line.partition("  ")
        path = folder / name
        if not name.startswith(below):
            continue
        try:
            matches = sha256(path) == checksum
        except FileNotFoundError as error:
            if not exist(folder):
                raise UserError(f"{folder} was removed while it was read; is a training at work there?") from error
            raise Damaged(path, "it is missing") from error
        except OSError as error:
            raise _unreadable(path, error) from error
        if not matches:
            raise Damaged(path, "its checksum is wrong")


def _lines(folder: Path) -> list[str]:
    """The list without its first line, whose checksum is compared."""
    try:
        head, _, lines = (folder / NAME).read_bytes().partition(b"\n")
    except OSError as error:
        raise _unreadable(folder / NAME, error) from error
    if head != f"# {hashlib.sha256(lines).hexdigest()}".encode():
        raise Damaged(folder / NAME, "its checksum is wrong")
    return lines.decode().splitlines()


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot read {path}: {error.strerror or error}; nothing was changed there")

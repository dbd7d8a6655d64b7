"""One command at a time works on a run folder."""

import pathlib

import filelock
from absl import logging

from emoflax.errors import UserError
from emoflax.files import make_folder
from emoflax.parallel import multihost

_NAME = ".lock"
_held: dict[pathlib.Path, filelock.FileLock] = {}


def hold(folder: pathlib.Path) -> None:
    """Makes the folder, if it is not there, and reserves it for this process until it ends, however it ends.

    The kernel lets go of the lock when the process is killed; the file `.lock` stays and means nothing by itself. Of
    several processes of one --multihost run the first one holds it, and processes that train a folder's models for a
    command are covered by the command's own lock. On NFS the lock holds between hosts only if the server supports it
    (NFSv4, or lockd): elsewhere it protects against commands on the same host.

    Raises:
      UserError: another command is at work there, or the folder cannot be written to.
    """
    multihost.first_then_all(lambda: _hold(folder.absolute()) if multihost.is_first() else None)


def _hold(folder: pathlib.Path) -> None:
    if not try_hold(folder):
        raise UserError(
            f"another command is at work in {folder}; wait until it ends, or choose another --workdir or config.name"
        )


def try_hold(folder: pathlib.Path) -> bool:
    """As `hold`, of this process alone; False: another command is at work there."""
    folder = folder.absolute()
    make_folder(folder)
    if folder in _held:
        return True
    lock = acquired(folder / _NAME)
    if lock:
        _held[folder] = lock
    return lock is not None


def hold_when_free(folder: pathlib.Path) -> None:
    """As `hold`, of this process alone, once no other one holds the folder, which is there."""
    folder = folder.absolute()
    if folder not in _held:
        lock = filelock.FileLock(folder / _NAME)
        lock.acquire()
        _held[folder] = lock


def acquired(path: pathlib.Path) -> filelock.FileLock | None:
    """The kernel's lock on a file, to be released; None: another process has it.

    Raises:
      UserError: the file cannot be written.
    """
    lock = filelock.FileLock(path, blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        return None
    except OSError as error:
        raise UserError(f"cannot write into {path.parent}: {error.strerror}; choose another --workdir") from error
    return lock


def wait(folder: pathlib.Path) -> None:
    """Returns when no other command holds the folder, which is not reserved."""
    if not try_hold(folder):
        logging.info("another command is at work in %s; waiting until it ends", folder)
        with filelock.FileLock(folder / _NAME):
            pass
    else:
        _held.pop(folder.absolute()).release()

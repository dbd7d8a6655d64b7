"""One command at a time works on a run folder."""

import pathlib

import filelock

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
    make_folder(folder)
    if folder in _held:
        return
    lock = filelock.FileLock(folder / _NAME, blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise UserError(
            f"another command is at work in {folder}; wait until it ends, or choose another --workdir or config.name"
        ) from error
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}; choose another --workdir") from error
    _held[folder] = lock

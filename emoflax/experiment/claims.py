"""One process at a time trains a model, where several processes or hosts divide a run folder's models among them.

A claim is a lock of the kernel on a file in the model's folder: it is free again as soon as the process that held it is
gone, however it ended, and the next one resumes from the checkpoints that it left. Between hosts it holds where the
file system's locks do (NFSv4, Lustre with -o flock, CephFS, GPFS); where they do not, two hosts would train one model,
which the name of the owner beside the lock gives away.
"""

import contextlib
import json
import os
import pathlib
import socket
import uuid
from collections.abc import Iterator

import filelock
from absl import logging

from emoflax.errors import UserError
from emoflax.experiment import lock
from emoflax.files import make_folder, naming

_LOCK, _OWNER = ".claim", "claimed_by.json"


class ClaimedError(UserError):
    """Another process is training the model."""


@contextlib.contextmanager
def claim(folder: pathlib.Path) -> Iterator[None]:
    """Reserves a model's folder, which is made if it is not there, until the block has ended.

    Raises:
      ClaimedError: another process has it.
      UserError: the folder cannot be written to; or, at the end, another process claimed it in the meantime.
    """
    make_folder(folder)
    held = lock.acquired(folder / _LOCK)
    if held is None:
        raise ClaimedError(f"another command is training {folder} ({_named(folder)}); wait until it ends")
    try:
        own = {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex}
        with naming(folder / _OWNER):
            (folder / _OWNER).write_text(json.dumps(own | _job()) + "\n")
        yield
        if _owner(folder).get("token") != own["token"]:
            raise UserError(
                f"{folder} was claimed by {_named(folder)} while this process trained it: locks do not hold between "
                "hosts on this file system; use one where they do (NFSv4, Lustre with -o flock), or "
                "config.crossval.shared=False"
            )
    finally:
        held.release()


def is_claimed(folder: pathlib.Path) -> bool:
    """Whether a process has the model's folder now."""
    if not (folder / _LOCK).exists():
        return False
    held = lock.acquired(folder / _LOCK)
    if held:
        held.release()
    return held is None


@contextlib.contextmanager
def alone(folder: pathlib.Path, what: str) -> Iterator[None]:
    """Waits until no other process is in a block of that name and folder."""
    make_folder(folder)
    held = lock.acquired(folder / f".{what}")
    if held is None:
        logging.info("waiting for another process with %s", folder / f".{what}")
        held = filelock.FileLock(folder / f".{what}")
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _job() -> dict[str, str]:
    """What the cluster calls this process."""
    return {name: os.environ[name] for name in ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID") if name in os.environ}


def _owner(folder: pathlib.Path) -> dict:
    try:
        owner = json.loads((folder / _OWNER).read_text())
    except (OSError, ValueError):  # not written yet
        return {}
    return owner if isinstance(owner, dict) else {}


def _named(folder: pathlib.Path) -> str:
    owner = _owner(folder)
    return f"process {owner.get('pid', '?')} on {owner.get('host', '?')}"

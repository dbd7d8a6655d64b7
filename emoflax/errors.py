"""Exceptions for problems that the user can solve."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """Bad input or circumstances. `main.py` prints it as one sentence and exits with status 2.

    The message states what is wrong, where, what is allowed, and what to do.
    """

    status = 2


class SomeFailed(UserError):
    """Some of the given files could not be used; the others' results are written."""

    status = 3


class WeightsUnavailable(UserError):
    """Published weights are neither on disk nor can they be downloaded; the message says which file to put where."""


class DivergedError(UserError):
    """Training met a number that is not finite."""


class NotInstalled(UserError):
    """A package is missing that an extra of emoflax brings."""


@contextlib.contextmanager
def optional(what: str, extra: str) -> Iterator[None]:
    """Around the import of a package that only `what` needs.

    Args:
      what: begins the message, e.g. "--mode=sweep".
      extra: of emoflax, which brings the package.

    Raises:
      NotInstalled: the import failed.
    """
    try:
        yield
    except ImportError as error:
        raise NotInstalled(
            f"{what} needs a package that is not installed ({error}): pip install 'emoflax[{extra}]'"
        ) from error

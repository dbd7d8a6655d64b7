"""The exceptions for what the person at the keyboard can mend."""

import contextlib
from collections.abc import Iterator


class UserError(Exception):
    """Bad input or circumstances. `main.py` prints it as one sentence and exits with status 2.

    The message says what is wrong, where, what is allowed, and what to do.
    """


class WeightsUnavailable(UserError):
    """Published weights are neither on this machine nor can they be downloaded now; says which file to put where."""


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

"""Exceptions for problems that the user can solve."""


class UserError(Exception):
    """Bad input or circumstances. `main.py` prints it as one sentence and exits with status 2.

    The message states what is wrong, where, what is allowed, and what to do.
    """


class WeightsUnavailable(UserError):
    """Published weights are neither on disk nor can they be downloaded; the message says which file to put where."""


class DivergedError(UserError):
    """Training produced a number that is not finite."""

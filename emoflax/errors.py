"""The exceptions for what the person at the keyboard can mend."""


class UserError(Exception):
    """Bad input or circumstances. `main.py` prints it as one sentence and exits with status 2.

    The message says what is wrong, where, what is allowed, and what to do.
    """


class WeightsUnavailable(UserError):
    """Published weights are neither on this machine nor can they be downloaded now; says which file to put where."""


class DivergedError(UserError):
    """Training met a number that is not finite."""

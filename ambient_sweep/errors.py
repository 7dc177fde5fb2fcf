"""Errors with a one-line message for the user."""

import contextlib
from collections.abc import Iterator


class AmbientSweepError(Exception):
    """A failure with a message fit to be shown as it is; exit code 1."""

    exit_code = 1


class UserError(AmbientSweepError):
    """Bad input: the message names the key, file or value and says what to do; exit code 2."""

    exit_code = 2


class TrainingDiverged(AmbientSweepError):
    """The loss or a weight is no longer finite."""


@contextlib.contextmanager
def of_option(option: str) -> Iterator[None]:
    """Makes a UserError about a path name the option that gave the path, instead of the key `data.path`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{option} {str(error).removeprefix('data.path: ')}") from None

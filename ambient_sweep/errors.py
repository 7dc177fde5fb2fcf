"""Errors with a one-line message for the user."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class AmbientSweepError(Exception):
    """A failure with a message fit to be shown as it is; exit code 1."""

    exit_code = 1


class Resumable(AmbientSweepError):
    """The work ended before it was done, in order; it goes on where the command is given again, or `resume`."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


class UserError(AmbientSweepError):
    """Bad input: the message names the key, file or value and says what to do; exit code 2."""

    exit_code = 2


class TrainingDiverged(AmbientSweepError):
    """The loss or a weight is no longer finite."""


@contextlib.contextmanager
def errors_of(file: Path | str) -> Iterator[None]:
    """Makes UserErrors begin with the file in whose settings they are."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{file}: {error}") from None

"""Consent to what the files of a config or a run could do: given by --trust for one command and its workers.

It is kept in the environment of their processes alone, so that no file can bring it along.
"""

import os

from ambient_sweep.errors import UserError

VARIABLE = "AMBIENT_SWEEP_TRUST"


def give(asked: bool) -> None:
    if asked:
        os.environ[VARIABLE] = "1"


def given() -> bool:
    return VARIABLE in os.environ


def environment() -> dict[str, str]:
    """What workers on other machines need in theirs."""
    return {VARIABLE: "1"} if given() else {}


def require(what: str) -> None:
    """Raises UserError, which begins with `what`, where no consent was given."""
    if not given():
        raise UserError(f"{what}; if you trust where it comes from, give --trust")

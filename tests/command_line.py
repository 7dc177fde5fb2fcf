"""Calls the command line in the process of a test."""

import io
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from ambient_sweep.cli import main
from ambient_sweep.sweep.running.signals import AT_ONCE, WARNINGS


def ambient_sweep(*words: Any) -> tuple[object, str, str]:
    """The exit code of a command, and what it printed on standard output and standard error."""
    code: object = 0
    argv, handlers = sys.argv, {n: signal.getsignal(n) for n in (*AT_ONCE, *WARNINGS)}
    sys.argv = ["ambient-sweep", *map(str, words)]
    try:
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
            main()
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.argv = argv
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code, out.getvalue(), err.getvalue()


def good(*words: Any) -> str:
    """What a command prints that must succeed."""
    code, out, err = ambient_sweep(*words)
    assert code == 0, err + out
    return out


def bad(*words: Any, code: int = 2) -> str:
    """The one line that a command must print which fails with `code`."""
    found, out, err = ambient_sweep(*words)
    assert found == code, (found, out, err)
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ")
    return line

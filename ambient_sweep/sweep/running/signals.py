"""SIGINT and SIGTERM: the first asks for an orderly end, the second ends the process at once."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from ambient_sweep.errors import AmbientSweepError


class Stopped(AmbientSweepError):
    """A signal asked the sweep to end."""


class StopRequest:
    """Whether a signal asked for the end: checked before each piece of work, and while it waits."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        """From now on nothing more begins."""
        self._asked = True

    def asked(self) -> bool:
        return self._asked

    def check(self) -> None:
        """Raises Stopped if the end was asked for."""
        if self._asked:
            raise Stopped("interrupted")


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Handles both signals until the block ends. `ray job stop` sends SIGTERM and kills after 3 seconds."""
    stop = StopRequest()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def ask(number: int, frame: FrameType | None) -> None:
        stop.ask()
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)

    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

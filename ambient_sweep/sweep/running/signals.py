"""Signals that ask for an orderly end; SIGINT or SIGTERM after one of them ends the process at once."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from ambient_sweep.errors import AmbientSweepError

# A closed terminal sends SIGHUP; batch systems warn by SIGUSR1, SIGUSR2 or SIGXCPU before they kill.
WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
AT_ONCE = (signal.SIGINT, signal.SIGTERM)


class Stopped(AmbientSweepError):
    """A signal asked the sweep to end."""


class StopRequest:
    """Whether a signal asked for the end: checked before each piece of work, and while it waits."""

    def __init__(self) -> None:
        self._asked = False
        ignored = {number for number in WARNINGS if signal.getsignal(number) == signal.SIG_IGN}  # by nohup
        self._handlers = {n: signal.SIG_IGN if n in ignored else self._on_signal for n in (*AT_ONCE, *WARNINGS)}

    def listen(self) -> None:
        """Handles the signals; to be called again where others take them: Tune handles SIGUSR1, and ends as if finished."""
        if not self._asked:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = True  # from now on nothing more begins
        for each in AT_ONCE:
            signal.signal(each, signal.SIG_DFL)

    def asked(self) -> bool:
        return self._asked

    def check(self) -> None:
        """Raises Stopped if the end was asked for."""
        if self._asked:
            raise Stopped("interrupted")


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Handles the signals until the block ends. `ray job stop` sends SIGTERM and kills after 3 seconds."""
    before = {number: signal.getsignal(number) for number in (*AT_ONCE, *WARNINGS)}
    stop = StopRequest()
    stop.listen()
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

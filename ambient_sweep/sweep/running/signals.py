"""Signals that ask for an orderly end; SIGINT or SIGTERM after one of them ends the process at once."""

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

from ambient_sweep.errors import Resumable

# A closed terminal sends SIGHUP; batch systems warn by SIGUSR1, SIGUSR2 or SIGXCPU before they kill.
WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
CHECK_SECONDS = 0.2
AT_ONCE = (signal.SIGINT, signal.SIGTERM)


class Stopped(Resumable):
    """The sweep ends before it is finished: a signal asked for it, or `reason`. storage: since its folder cannot be used."""

    def __init__(self, reason: str = "interrupted", *, storage: bool = False) -> None:
        super().__init__(reason)
        self.storage = storage


class StopRequest:
    """Whether a signal asked for the end: checked before each piece of work, and while it waits."""

    def __init__(self) -> None:
        self._asked = False
        self._failure: BaseException | None = None
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
            signal.signal(each, self._at_once)
        if number in AT_ONCE:
            say("ending in order; a second signal ends at once")

    def _at_once(self, number: int, frame: FrameType | None) -> None:
        say("ended at once; what was not saved yet is trained again by `resume`, or the same `train`")
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def fail(self, error: BaseException) -> None:
        """The next check raises this error, unless another is to be raised already."""
        self._failure = self._failure or error

    def asked(self) -> bool:
        return self._asked

    def check(self) -> None:
        """Raises Stopped if the end was asked for, and the error that `fail` got, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if self._asked:
            raise Stopped

    def sleep(self, seconds: float) -> None:
        """Waits. Raises Stopped as soon as the end is asked for."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, CHECK_SECONDS))


def say(line: str) -> None:
    """A line on standard error, from a handler of signals."""
    os.write(2, f"{line}\n".encode())


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

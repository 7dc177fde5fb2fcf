"""For scripts of tests that run in a process of their own: it is killed by itself, without a chance to clean up."""

import os
import signal
from typing import Any


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def nth(owner: Any, name: str, count: int, before: bool = True) -> None:
    """Makes the count-th call of a function of `owner` the last thing that the process does, or begins to do."""
    function, calls = getattr(owner, name), 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if before and calls == count:
            die()
        result = function(*arguments, **options)
        if calls == count:
            die()
        return result

    setattr(owner, name, counted)

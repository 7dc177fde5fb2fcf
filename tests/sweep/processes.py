"""Processes that tests start in sessions of their own, and waiting for what they do."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def end_session(leader: "subprocess.Popen[str]") -> None:
    """Kills a process and all of its session: two agents of Ray's outlive a killed driver by a minute."""
    if leader.poll() is None:
        leader.kill()
        leader.wait()
    for pid in session_of(leader.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def session_of(leader: int) -> list[int]:
    """The processes of a session that are alive, by /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(session) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_until(condition: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"not within {seconds} s")
        time.sleep(0.05)

"""Ray and the operating system around a sweep: connecting, quiet settings, signals, one driver per folder."""

import contextlib
import fcntl
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray.exceptions import RayTaskError

from ambient_sweep.errors import AmbientSweepError, UserError

SETTINGS = {
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: no console output of Tune's
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # trials write TensorBoard events themselves
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they are told in one line, and recorded
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # see `StopRequest`
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nothing reads Tune's snapshots
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
HEED_SECONDS = 0.2  # between two looks whether a signal came


class Stopped(AmbientSweepError):
    """A signal asked the sweep to end."""


class StopRequest:
    """Whether a signal asked the sweep to end: whoever begins a piece of work looks here before, and while it waits."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        """From now on nothing more is begun."""
        self._asked = True

    def check(self) -> None:
        """Raises Stopped if the sweep was asked to end."""
        if self._asked:
            raise Stopped("interrupted")

    def results(self, tasks: Sequence[Any]) -> list[Any]:
        """What Ray's `tasks` give. Raises what one of them raised, or Stopped; those that did not end are cancelled."""
        waiting = list(tasks)
        try:
            while waiting:
                self.check()
                ended, waiting = ray.wait(waiting, timeout=HEED_SECONDS)
                ray.get(ended)
        except RayTaskError as error:
            raise error.cause from None
        finally:
            for task in waiting:
                ray.cancel(task)
        return ray.get(list(tasks))


@contextlib.contextmanager
def ray_session(*, dashboard: bool) -> Iterator[None]:
    """Connects to the cluster that RAY_ADDRESS names (as `ray job submit` sets it), or starts Ray on this machine; ends
    what it began. A Ray that runs in this process already is used and left alone.

    The dashboard frees the workers of a trial that is stopped, so sweeps with several workers per trial need it. Raises
    AmbientSweepError where Ray cannot be reached or started.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    in_main = threading.current_thread() is threading.main_thread()
    on_sigterm = signal.getsignal(signal.SIGTERM)  # Ray replaces it
    try:
        if address:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        else:
            # "local": without it, Ray joins any cluster that was once started on this machine, or waits for a dead one
            ray.init("local", include_dashboard=dashboard, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, TimeoutError, ValueError) as error:
        where = f"at RAY_ADDRESS={address}" if address else "on this machine"
        raise AmbientSweepError(f"Ray cannot be used {where}: {' '.join(str(error).split())}") from None
    except SystemExit:  # by Ray's handler of SIGTERM
        raise KeyboardInterrupt from None
    finally:
        if in_main:
            signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def ray_output_to(path: Path, echo: Callable[[str], None]) -> Iterator[Callable[[str], None]]:
    """Keeps out of standard output what Ray prints there unasked (a page when a worker dies), and appends it to `path`.

    Yields `echo` as it was before. Only Python's own stdout is turned aside, not the file descriptor.
    """
    stdout = sys.stdout

    def to_stdout(text: str) -> None:
        with contextlib.redirect_stdout(stdout):
            echo(text)

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        yield to_stdout


@contextlib.contextmanager
def quiet_tune() -> Iterator[None]:
    """Tune's settings for a sweep, and its log kept to itself (it advises to use its own commands)."""
    before = {name: os.environ.get(name) for name in SETTINGS}
    logger = logging.getLogger("ray.tune")
    level = logger.level
    os.environ.update(SETTINGS)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """The first SIGINT or SIGTERM asks for an orderly end; the second ends the process at once.

    `ray job stop` sends SIGTERM and kills after 3 seconds. Outside of the main thread there are no signals to handle.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    names = (signal.SIGINT, signal.SIGTERM)

    def ask(number: int, frame: FrameType | None) -> None:
        stop.ask()
        for name in names:
            signal.signal(name, signal.SIG_DFL)

    before = {name: signal.signal(name, ask) for name in names}
    try:
        yield stop
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


@contextlib.contextmanager
def only_driver(root: Path) -> Iterator[None]:
    """Holds the sweep's folder for this process. Raises UserError if another one has it, or it cannot be written."""
    try:
        lock = (root / ".driver.lock").open("w")
    except OSError as error:
        raise UserError(
            f"{root}: cannot be written ({error.strerror}); make it writable, then call this again"
        ) from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{root}: another process runs this sweep now; wait for it, or end it first") from None
        except OSError as error:
            raise UserError(
                f"{root}: its file system has no locks ({error.strerror}); give another --storage"
            ) from None
        yield


@contextlib.contextmanager
def only_trainer(folder: Path) -> Iterator[None]:
    """Holds a trial's folder for this process, and waits for one that still has it: a trial's process outlives a killed
    driver by some seconds, and would write beside its successor."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".trainer.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

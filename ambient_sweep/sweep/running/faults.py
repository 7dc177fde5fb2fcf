"""Of what kind a failure is, and what follows.

The machines' failures (a node, a process that was killed, storage that is away) are retried without a count, ever later,
until `search.patience` has passed without progress. A trial's own (memory, errors in its code) count against
`search.max_failures`. Storage that takes no more files ends the sweep in order.
"""

import errno
import functools
import shutil
import time
from collections import Counter
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.train import PreemptionError
from ray.tune.experiment import Trial

from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.object_store import fetch_folder
from ambient_sweep.storage import remove, write_atomic
from ambient_sweep.sweep.running.preflight import size_text
from ambient_sweep.sweep.running.signals import Stopped, StopRequest
from ambient_sweep.sweep.space.definition import Search
from ambient_sweep.sweep.space.file import SWEEP_FILE
from ambient_sweep.text import duration
from ambient_sweep.training.state import saved_states
from ambient_sweep.trial.records import read_trial_evaluations, trial_folder

REFUSED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
AWAY = {
    errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ENOTCONN, errno.ENODEV, errno.ENXIO,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EREMOTEIO,
}  # fmt: skip
PROBE_BYTES = 2**16


class Kind(IntEnum):
    """Whose failure it is, the one that tells the most first; MEMORY is the trial's own, as Ray's monitor ended it."""

    STORAGE, MEMORY, MACHINE, OWN = range(4)


def causes(error: BaseException) -> list[BaseException]:
    """What lies behind an error of Ray's, of Ray Train's workers, or of a file that cannot be read; else itself."""
    inner = [getattr(error, name, None) for name in ("cause", "controller_failure", "health_check_failure")]
    inner += getattr(error, "worker_failures", {}).values()
    inner += [error.__context__] if isinstance(error, UserError) and isinstance(error.__context__, OSError) else []
    return [cause for each in inner if each is not None for cause in causes(each)] or [error]


def worst(error: BaseException) -> tuple[Kind, BaseException]:
    """The kind of a failure, and the error that tells: of several workers, the others fail with the first."""
    return min(((_kind(cause), cause) for cause in causes(error)), key=lambda each: each[0])


def _kind(cause: BaseException) -> Kind:
    if isinstance(cause, OSError):
        return Kind.STORAGE if cause.errno in REFUSED else Kind.MACHINE if cause.errno in AWAY else Kind.OWN
    if isinstance(cause, OutOfMemoryError):
        return Kind.MEMORY
    own = isinstance(cause, RayTaskError) or getattr(cause, "actor_init_failed", False)
    return Kind.MACHINE if isinstance(cause, RayError | PreemptionError) and not own else Kind.OWN


@functools.cache
def expect_all_deaths() -> None:
    """Lets Tune take each end of a trial's process for a failure of the trial.

    Of such ends it knows RayActorError alone, and ends the sweep by any other, as by what Ray's memory monitor leaves.
    """
    known = RayActorManager._actor_task_failed

    def failed(manager: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        if not isinstance(exception, RayActorError | RayTaskError):
            exception, exception.cause = RayActorError(error_msg=str(exception)), exception  # type: ignore[attr-defined]
        known(manager, tracked_actor_task, exception)

    RayActorManager._actor_task_failed = failed  # type: ignore[method-assign, assignment]


def failure_of(trial: Trial) -> BaseException:
    """What ended a trial of Tune's; of some errors Tune keeps the text alone.

    It is read back from the file that Tune wrote in this process, in a folder that this process made: never from a run.
    """
    if trial.pickled_error_file is not None:
        failure: BaseException = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
        return failure
    text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else "Ray gave no reason"
    if "Traceback" in text:
        return RuntimeError(text)
    return (OutOfMemoryError if "memory" in text else NodeDiedError)(text)


def describe(cause: BaseException) -> str:
    """One of `causes` in one line."""
    if isinstance(cause, OutOfMemoryError):
        return "the worker ran out of memory"
    if isinstance(cause, RayActorError):
        lost = cause.preempted or "node has died" in str(cause)
        return "the worker's node was lost" if lost else "the worker process died (killed, or out of memory)"
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.filename or 'a file'}: {cause.strerror}"
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[-1]}" if lines else type(cause).__name__


class Restarts:
    """Which trials start again after their process was lost, and when."""

    def __init__(self, root: Path, search: Search, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._search, self._clock = root, search, clock
        self.attempts = Counter[str]()
        self._own, self._lost = Counter[str](), Counter[str]()  # failures; the machines' since the last progress
        self._reached: dict[str, tuple[str, int]] = {}
        self.waiting: dict[str, float] = {}  # trials that start again, and when

    def plan(self, trial_id: str, kind: Kind) -> str | None:
        """The words for a restart after a failure of this kind; None: there is none any more."""
        self.attempts[trial_id] += 1
        if kind != Kind.MACHINE:
            self._own[trial_id] += 1
            if self._own[trial_id] > self._search.max_failures:
                return None
            self.waiting[trial_id] = self._clock()
            return f"restart {self._own[trial_id]} of {self._search.max_failures}"
        place = trial_folder(self._root, trial_id) / "state"
        fetch_folder(place, "/state.json")
        states = saved_states(place)
        reached = states[0].name if states else "", len(read_trial_evaluations(self._root, trial_id))
        if reached > self._reached.get(trial_id, ("", 0)):
            self._reached[trial_id], self._lost[trial_id] = reached, 0
        wait = back_off(self._lost[trial_id], self._search)
        self._lost[trial_id] += 1
        if wait is not None:
            self.waiting[trial_id] = self._clock() + wait
        return None if wait is None else f"in {duration(wait)}"

    def due(self) -> str | None:
        """A trial whose time has come; each once."""
        found = next((trial_id for trial_id, time in self.waiting.items() if time <= self._clock()), None)
        if found is not None:
            del self.waiting[found]
        return found


def back_off(failures: int, search: Search) -> float | None:
    """Seconds to wait after so many failures without progress; None once all waits together exceed `search.patience`."""
    wait = 2.0**failures
    return wait if 2 * wait - 1 <= search.patience * 60 else None


def check_storage(root: Path) -> None:
    """Raises OSError where the folder of a sweep is not there, or takes no files."""
    (root / SWEEP_FILE).stat()
    probe = root / ".probe"
    write_atomic(probe, bytes(PROBE_BYTES))
    remove(probe)


def outlast(
    root: Path, search: Search, session: Callable[[], None], echo: Callable[[str], None], stop: StopRequest
) -> None:
    """Runs the session of a sweep, and again from its files where its storage was away in between.

    Raises Stopped where it stays away, and where it takes no more files.
    """
    failures = -1
    while True:
        begun = time.monotonic()
        try:
            return session()
        except (OSError, AmbientSweepError) as error:
            kind, cause = worst(error)
            if kind == Kind.STORAGE:
                free = size_text(shutil.disk_usage(root).free)
                why = f"{describe(cause)} ({free} free); make room, or make it writable"
                raise Stopped(why, storage=True) from None
            if kind != Kind.MACHINE:
                raise
            failures = failures + 1 if time.monotonic() - begun < 60 * search.patience else 0
            wait = back_off(failures, search)
            if wait is None:
                raise Stopped(f"{describe(cause)}, for {duration(60 * search.patience)}", storage=True) from None
            echo(f"storage is away: {describe(cause)}; going on from what it holds, in {duration(wait)}")
            try:
                stop.sleep(wait)
            except Stopped:
                raise Stopped(describe(cause), storage=True) from None

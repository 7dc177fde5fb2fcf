"""Of what kind failures are, when trials start again, and what storage that fails does to a sweep; without Ray."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, NodeDiedError, OutOfMemoryError, RayTaskError
from ray.train import ControllerError, WorkerGroupError

from ambient_sweep.errors import AmbientSweepError, UserError
from ambient_sweep.sweep.running.faults import (
    Kind,
    Restarts,
    check_storage,
    describe,
    outlast,
    worst,
)
from ambient_sweep.sweep.running.signals import Stopped, StopRequest
from ambient_sweep.sweep.space.definition import Search
from ambient_sweep.sweep.space.file import SWEEP_FILE
from ambient_sweep.trial.records import read_trial


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/runs/s/trials/t/state")


def of_workers(*failures: Exception) -> RayTaskError:
    """As Tune hears of it: the trial's process raised what Ray Train raised."""
    return RayTaskError("train", "traceback", WorkerGroupError("text", dict(enumerate(failures))))


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ActorDiedError(), Kind.MACHINE, "the worker process died (killed, or out of memory)"),
        (ActorUnavailableError("gone", None), Kind.MACHINE, "the worker process died (killed, or out of memory)"),
        (NodeDiedError("the node is dead"), Kind.MACHINE, "NodeDiedError: the node is dead"),
        (
            of_workers(RuntimeError("Connection reset by peer"), ActorDiedError()),
            Kind.MACHINE,
            "the worker process died",
        ),
        (of_workers(ActorDiedError(), OutOfMemoryError("memory")), Kind.MEMORY, "the worker ran out of memory"),
        (of_workers(ActorDiedError(), os_error(errno.ENOSPC)), Kind.STORAGE, "/state: No space left on device"),
        (ControllerError(ActorDiedError()), Kind.MACHINE, "the worker process died (killed, or out of memory)"),
        (OutOfMemoryError("memory on the node was low"), Kind.MEMORY, "the worker ran out of memory"),
        (RayTaskError("train", "traceback", ValueError("a\nb")), Kind.OWN, "ValueError: b"),
        (os_error(errno.ESTALE), Kind.MACHINE, "/runs/s/trials/t/state: Stale file handle"),
        (os_error(errno.EDQUOT), Kind.STORAGE, "/runs/s/trials/t/state: Disk quota exceeded"),
        (os_error(errno.EROFS), Kind.STORAGE, "/runs/s/trials/t/state: Read-only file system"),
        (os_error(errno.EMFILE), Kind.OWN, "/runs/s/trials/t/state: Too many open files"),
        (UserError("x: damaged"), Kind.OWN, "UserError: x: damaged"),
    ],
)
def test_whose_failure_it_is_and_what_it_is(error: BaseException, kind: Kind, said: str) -> None:
    found, cause = worst(error)
    assert found == kind
    assert said in describe(cause)


def test_a_file_that_cannot_be_read_since_storage_is_away_is_no_failure_of_the_trial(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read_trial(tmp_path, "t")
    assert worst(caught.value)[0] == Kind.MACHINE


def restarts(root: Path, **search: float) -> tuple[Restarts, Callable[[float], None]]:
    now = [0.0]
    return Restarts(root, Search(**search), clock=lambda: now[0]), lambda seconds: now.__setitem__(0, now[0] + seconds)


def test_a_trial_s_own_failures_are_counted_and_the_machines_are_not(tmp_path: Path) -> None:
    found, _ = restarts(tmp_path, max_failures=2)
    told = [found.plan("t", kind) for kind in (Kind.OWN, Kind.MACHINE, Kind.OWN, Kind.MACHINE, Kind.OWN)]
    assert told == ["restart 1 of 2", "in 1 second", "restart 2 of 2", "in 2 seconds", None]
    assert found.attempts["t"] == 5


def test_restarts_come_ever_later_until_the_patience_is_over_or_the_trial_comes_on(tmp_path: Path) -> None:
    found, wait = restarts(tmp_path, patience=1)
    for seconds in (1, 2, 4, 8, 16):
        found.plan("t", Kind.MACHINE)
        wait(seconds - 0.5)
        assert found.due() is None
        wait(1)
        assert [found.due(), found.due()] == ["t", None]
    (tmp_path / "trials" / "t" / "state" / "images-000000640").mkdir(parents=True)
    assert found.plan("t", Kind.MACHINE) == "in 1 second"
    for _ in range(4):
        assert found.plan("t", Kind.MACHINE) is not None
    assert found.plan("t", Kind.MACHINE) is None, "1 + 2 + 4 + 8 + 16 + 32 seconds are more than a minute"


# -- storage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 1 MiB, with the folder of a sweep."""
    root = tmp_path / "disk"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", root], check=True)
    (root / SWEEP_FILE).touch()
    yield root
    subprocess.run(["umount", "--lazy", root], check=True)


def refused(root: Path) -> Stopped:
    with pytest.raises(Stopped) as caught:
        outlast(root, Search(), lambda: check_storage(root), lambda line: None, StopRequest())
    assert caught.value.storage
    assert caught.value.exit_code == 75
    return caught.value


def test_a_full_disk_is_told_with_its_path_and_bytes(disk: Path) -> None:
    check_storage(disk)
    (disk / "big").write_bytes(bytes(2**20 - 2**14))
    assert (
        str(refused(disk)) == f"{disk}/.probe: No space left on device (0.0 MiB free); make room, or make it writable"
    )
    (disk / "big").unlink()
    check_storage(disk)


def test_a_read_only_disk_is_told(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert str(refused(disk)).startswith(f"{disk}/.probe: Read-only file system (1.0 MiB free); ")


class InNoTime(StopRequest):
    def sleep(self, seconds: float) -> None:
        """Does not wait."""


def test_a_sweep_goes_on_once_its_storage_is_back(tmp_path: Path) -> None:
    calls, lines = [], list[str]()

    def session() -> None:
        calls.append(1)
        if len(calls) == 3:
            (tmp_path / SWEEP_FILE).touch()
        check_storage(tmp_path)

    outlast(tmp_path, Search(patience=1), session, lines.append, InNoTime())
    said = f"storage is away: {tmp_path / SWEEP_FILE}: No such file or directory; going on from what it holds, in "
    assert lines == [f"{said}1 second", f"{said}2 seconds"]


def test_storage_that_does_not_come_back_ends_the_sweep_in_order(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match=r"sweep\.yaml: No such file or directory, for 1 minute$") as caught:
        outlast(tmp_path, Search(patience=1), lambda: check_storage(tmp_path), lambda line: None, InNoTime())
    assert caught.value.storage


def test_what_is_not_the_storage_s_fault_is_raised(tmp_path: Path) -> None:
    def session() -> None:
        raise AmbientSweepError("no")

    with pytest.raises(AmbientSweepError, match=r"^no$"):
        outlast(tmp_path, Search(), session, lambda line: None, StopRequest())

"""A real sweep whose storage is full, or away for some seconds: file systems of its own, which need root to be mounted."""

import contextlib
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState
from processes import wait_until
from small_sweeps import searched_trials, small_sweep, study_of

from ambient_sweep.sweep.run import resume_sweep, run_sweep
from ambient_sweep.sweep.running.signals import Stopped
from ambient_sweep.trial.records import read_trials

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.usefixtures("ray_head")]

NOISY = {"observed__base_sigma": 0.05, "search__trials": 1, "training__images": 64_000}


def once_it_trains(root: Path, act: Callable[[], object]) -> threading.Thread:
    def wait() -> None:
        wait_until(lambda: list(root.glob("trials/*/state/images-*")))
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_a_full_disk_ends_a_sweep_in_order_and_resume_goes_on_once_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)
    root, big = disk / "small", disk / "big"

    def fill() -> None:
        with contextlib.suppress(OSError), big.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**12))

    try:
        thread = once_it_trains(root, fill)
        lines: list[str] = []
        with pytest.raises(Stopped) as caught:
            run_sweep(small_sweep(tmp_path, **NOISY), disk, echo=lines.append)
        thread.join()
        assert caught.value.exit_code == 75
        said = str(caught.value)
        assert said.startswith(f"{root}/")
        assert ": No space left on device (0.0 MiB free); make room" in said
        assert said.endswith(f"; `ambient-sweep resume {root}` continues from here")
        with pytest.raises(Stopped, match=r"No space left on device \(0.0 MiB free\); make room, or"):
            resume_sweep(root, echo=lines.append)
        assert not any("it goes on from its last state" in line for line in lines)
        big.unlink()
        assert resume_sweep(root, echo=lines.append).counts == {"completed": 1}
        assert [t.state for t in searched_trials(study_of(root))] == [TrialState.COMPLETE]
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_sweep_outlives_storage_that_is_away(tmp_path: Path) -> None:
    disk, real = tmp_path / "disk", tmp_path / "real"
    disk.mkdir()
    real.mkdir()
    attach, detach = ["mount", "--bind", str(real), str(disk)], ["umount", "--lazy", str(disk)]
    subprocess.run(attach, check=True)
    back = threading.Timer(4, lambda: subprocess.run(attach, check=True))

    def away() -> None:
        subprocess.run(detach, check=True)
        back.start()

    try:
        thread = once_it_trains(disk / "small", away)
        lines: list[str] = []
        summary = run_sweep(small_sweep(tmp_path, **NOISY), disk, echo=lines.append)
        thread.join()
        assert summary.counts == {"completed": 1}
        assert any("No such file or directory" in line for line in lines)
        (trial,) = read_trials(real / "small")
        assert trial.images_done == trial.images_asked == 64_000
        assert [t.state for t in searched_trials(study_of(real / "small"))] == [TrialState.COMPLETE]
    finally:
        back.join()
        subprocess.run(detach, check=True)
    assert not list(disk.iterdir()), "nothing was written while it was away"

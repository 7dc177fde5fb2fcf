"""The lines that a person follows, with a clock of our own."""

import os
from pathlib import Path
from typing import Any

import pytest
from made_up_sweeps import CLASSIFIER, make_trial
from pydantic import TypeAdapter

from ambient_sweep.config import build_config
from ambient_sweep.sweep.forecast import Forecast
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.running.cluster import TRAINER_LOCK, only_trainer
from ambient_sweep.sweep.running.progress import Progress
from ambient_sweep.sweep.running.signals import Stopped
from ambient_sweep.sweep.space.definition import SweepTrial
from ambient_sweep.sweep.standing import SESSION_FILE, Session, Step
from ambient_sweep.terminal import Screen
from ambient_sweep.trial.records import trial_folder, write_trial

CONFIG = build_config(CLASSIFIER)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


def make(
    root: Path, total: int = 4, forecast: Forecast | None = None, **more: Any
) -> tuple[Progress, list[str], Clock]:
    lines: list[str] = []
    clock, forecast = Clock(), forecast or Forecast(0, 0, total)
    return Progress(root, ("fd", "mem"), Screen(lines.append), forecast, clock=clock, **more), lines, clock


def stands(root: Path, name: str, done: int, asked: int = 1000, status: str = "running", **more: Any) -> None:
    """Writes the record of a trial whose process has just entered its folder."""
    figures = {"images_asked": asked, "images_done": done, "images_executed": done}
    write_trial(root, make_trial(name, CONFIG, status=status, **{**figures, **more}))
    before = lock.stat().st_mtime_ns if (lock := trial_folder(root, name) / TRAINER_LOCK).exists() else 0
    with only_trainer(lock.parent):
        os.utime(lock, ns=(before + 1, before + 1))  # two may come within a tick of the clock


def trial(name: str, sigma: float = 0.2) -> SweepTrial:
    return SweepTrial("search", {"observed.sigma": sigma}, trial_id=name)


def report(fidelity: float = 10.0, memorization: float = 0.5, **more: object) -> Report:
    return Report(fidelity=fidelity, memorization=memorization, **more)  # type: ignore[arg-type]


def test_an_evaluation_is_one_short_line(root: Path) -> None:
    progress, lines, clock = make(root)
    clock.now += 61
    progress.reported(trial("t1"), report(33.25, 0.012, fraction=0.5))
    assert lines == ["[1:01] t1 sigma=0.2: 50% trained, fd 33.25, mem 0.012"]


def test_the_status_comes_regularly_and_counts(root: Path) -> None:
    progress, lines, clock = make(root)
    for name in ("a", "b", "c"):
        progress.trial_started(trial(name))
    stands(root, "a", 0, status="completed")
    progress.trial_ended(trial("a"), None)
    stands(root, "b", 0, status="failed", reason="the loss is not finite")
    progress.trial_ended(trial("b", 0.3), "the loss is not finite")
    progress.status({"c"}, 2)
    assert lines == ["[0:00] b sigma=0.3: FAILED: the loss is not finite"]
    stands(root, "c", 0)
    clock.now += 30
    progress.status({"c"}, 2)
    progress.status({"c"}, 2)
    assert lines[1:] == ["[0:30] 1 of 4 trials done, 1 running (c at 0 of 1,000 images), 2 paused, 1 failed"]


def test_the_time_left_is_the_pace_of_this_session_times_what_remains(root: Path) -> None:
    for name in ("a", "b"):  # trained in an earlier session
        stands(root, name, 1000, status="completed")
    progress, lines, clock = make(root, total=10, forecast=Forecast(1000, fixed=0, searched=10))
    clock.now += 7
    assert progress.standing().seconds_left is None
    progress.trial_started(trial("c"))
    stands(root, "c", 500)
    clock.now += 13  # half a trial in 20 seconds; seven and a half remain
    progress.status({"c"}, 0, force=True)
    assert progress.standing().seconds_left == 7.5 * 40
    assert lines[-1].startswith("[0:20] 2 of 10 trials done, 1 running")
    assert lines[-1].endswith("; about 5:00 left")


def test_the_frontier_holds_what_no_other_point_beats(root: Path) -> None:
    progress, _, _ = make(root, points=[(10.0, 0.5), (20.0, 0.1)])
    for values in ((15.0, 0.6), (15.0, 0.3), (float("nan"), 0.0)):  # the first is beaten by one that is known
        progress.reported(trial("a"), report(*values))
    assert progress.standing().frontier == ((20.0, 0.1), (15.0, 0.3), (10.0, 0.5))
    assert "frontier so far at main endpoints (fd/mem): 20/0.1, 15/0.3, 10/0.5" in progress.standing().line()


def test_a_long_frontier_is_shown_by_five_points_with_its_ends(root: Path) -> None:
    progress, _, _ = make(root, points=[(float(100 - i), i / 100) for i in range(50)])
    assert progress.standing().line().endswith("(fd/mem): 100/0, 88/0.12, 76/0.24, 63/0.37, 51/0.49")


def test_with_a_budget_its_images_say_how_much_is_left(root: Path) -> None:
    stands(root, "before", 200_000, status="completed")
    stands(root, "baseline", 100_000, status="completed", role="baseline")
    progress, _, clock = make(root, total=512, forecast=Forecast(100_000, 1, 512, budget=1_000_000))
    assert progress.standing().seconds_left is None
    clock.now += 60
    stands(root, "a", 200_000, 200_000, status="stopped")
    progress.trial_ended(trial("a"), None)
    line = progress.standing().line()
    assert line == "400,000 of 1,000,000 images trained, 3 trials done, 0 running, 0 failed; about 3:00 left"
    stands(root, "b", 600_000, 600_000, status="stopped")
    progress.trial_ended(trial("b"), None)
    assert progress.standing().seconds_left is None


def test_trials_that_wait_for_their_worker_are_pending_and_a_line_says_what_they_wait_for(root: Path) -> None:
    """Whether Ray has not placed them, or has placed a trial whose several workers do not fit."""
    progress, lines, clock = make(root, room=lambda: "a trial needs 1 of 2 CPUs, of which 0 are free")
    stands(root, "a", 500)  # it paused at its half
    for name in ("a", "b"):
        progress.trial_started(trial(name))
    stands(root, "b", 100)
    for _ in range(10):
        progress.status({"a", "b", "c"}, 0)
        clock.now += 10
    said = "[0:20] 2 trials waiting for room on the cluster: a trial needs 1 of 2 CPUs, of which 0 are free"
    assert lines[0] == said
    assert lines[1].startswith("[0:30] 0 of 4 trials done, 1 running (b at 100 of 1,000 images")
    assert ", 2 pending, 0 failed" in lines[1]
    assert [line for line in lines if "waiting" in line] == [said, said.replace("0:20", "1:20")]
    stands(root, "a", 500)
    progress.status({"a", "b"}, 0, force=True)
    assert "2 running (a at 500 of 1,000 images, b at 100" in lines[-1]
    progress.trial_paused(trial("a"))
    progress.status({"a", "b"}, 0, force=True)
    assert "1 running (b at 100 of 1,000 images; 6 images per second), 1 pending" in lines[-1], (
        "it is to go on, and has no worker yet"
    )


def test_a_trial_that_waits_for_its_restart_does_not_wait_for_room(root: Path) -> None:
    progress, lines, clock = make(root)
    for _ in range(10):
        progress.status({"a"}, 0, resting={"a"})
        clock.now += 10
    assert ", 1 pending, " in lines[-1]
    assert not any("waiting" in line for line in lines)


def test_where_no_trial_can_train_for_the_patience_the_sweep_ends(root: Path) -> None:
    progress, _, clock = make(root, room=lambda: "a trial needs 2 of 1 CPUs, of which 1 are free")
    for _ in range(3):  # nothing is to be trained
        progress.status((), 0)
        clock.now += 60
    progress.trial_started(trial("a"))
    progress.status({"a"}, 0)
    clock.now += 50
    progress.status({"a"}, 0)
    progress.check_patience(2)
    clock.now += 20
    said = "no trial could train for 2 minutes: a trial needs 2 of 1 CPUs, of which 1 are free"
    with pytest.raises(Stopped, match=said):
        progress.check_patience(2)
    stands(root, "a", 100)
    progress.status({"a"}, 0)
    progress.check_patience(2)


def test_a_short_start_of_workers_is_not_told(root: Path) -> None:
    progress, lines, clock = make(root)
    for name in "abcd":  # one after the other
        progress.status({name}, 0)
        clock.now += 15
        progress.status({name}, 0)
    assert not any("waiting" in line for line in lines)


def test_the_confirmation_goes_on_with_the_clock_and_the_pace_of_the_search(root: Path) -> None:
    stands(root, "before", 0, 0, status="completed")
    progress, lines, clock = make(root, total=2, forecast=Forecast(1000, fixed=0, searched=8, budget=9000))
    stands(root, "a", 1000, status="completed")
    progress.trial_ended(trial("a"), None)
    clock.now += 60
    progress.confirm(Step("training", {"a.1000.seed-1": 1000, "a.1000.seed-2": 500}))
    progress.status((), 0)
    said = "2 of 4 trials done, 0 running, 0 failed; confirming: training; about 1:30 left of this step"
    assert lines == [f"[1:00] {said}"]


def test_measurements_are_counted_in_the_file_and_give_the_time_that_is_left(root: Path) -> None:
    progress, lines, clock = make(root, forecast=Forecast(1000, fixed=0, searched=8), points=[(9.0, 0.1)])
    stands(root, "a", 1000, status="completed")
    progress.trial_ended(trial("a"), None)
    clock.now += 600
    begins = Step("measuring 4 checkpoints", measurements=4)
    progress.confirm(begins)
    assert progress.standing().seconds_left is None
    for done in (1, 1, 2):
        clock.now += 30
        progress.confirm(begins, done)
    session = TypeAdapter(Session).validate_json((root / SESSION_FILE).read_bytes())
    assert session.step == Step("measuring 4 checkpoints", measurements=4, done=2, seconds=90.0)
    progress.status((), 0, force=True)
    said = "1 of 1 trials done, 0 running, 0 failed; confirming: measuring 4 checkpoints; 2 of 4 done; frontier so far"
    assert lines[-1].startswith(f"[11:30] {said}")
    assert lines[-1].endswith("; about 1:30 left of this step")
    assert "images per second" not in lines[-1], "nothing is trained"
    progress.confirm(begins, 4)
    assert progress.standing().seconds_left == 0


def test_a_lost_trial_is_not_expected_to_train_on(root: Path) -> None:
    progress, _, clock = make(root, total=1, forecast=Forecast(1000, fixed=0, searched=1))
    clock.now += 60
    stands(root, "a", 500, status="failed", reason="worker failed, after 3 attempts: killed")
    progress.trial_ended(trial("a"), "worker failed")
    assert progress.standing().seconds_left is None


def test_running_trials_say_how_far_they_are_and_the_time_left_learns_from_them(root: Path) -> None:
    progress, lines, clock = make(root, total=1, forecast=Forecast(1000, fixed=0, searched=1))
    progress.trial_started(trial("a"))
    for images in (200, 500):
        clock.now += 30
        stands(root, "a", images)
        progress.status({"a"}, 0)
    assert lines == [
        "[0:30] 0 of 1 trials done, 1 running (a at 200 of 1,000 images; 6.67 images per second), 0 failed; about 2:00 left",
        "[1:00] 0 of 1 trials done, 1 running (a at 500 of 1,000 images; 8.33 images per second), 0 failed; about 1:00 left",
    ]

"""How a sweep stands by its files: the pure function, and `status` of sweeps that run, were killed or are finished."""

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import bad, good
from made_up_sweeps import CLASSIFIER, add, make_trial

from ambient_sweep.config import build_config
from ambient_sweep.storage import is_locked
from ambient_sweep.sweep.folder import DRIVER_LOCK
from ambient_sweep.sweep.forecast import Forecast
from ambient_sweep.sweep.running.cluster import only_driver
from ambient_sweep.sweep.space.file import load_sweep, write_sweep
from ambient_sweep.sweep.standing import SESSION_FILE, Session, Standing, Step, frontier_of
from ambient_sweep.trial.records import TrialRecord, trial_path, write_json

CONFIG = build_config(CLASSIFIER)
NAMES = ("fd", "mem")


def record(name: str, status: str, done: int, **more: Any) -> TrialRecord:
    figures = {"images_asked": 1000, "images_done": done, "images_executed": done}
    return make_trial(name, CONFIG, status=status, **{**figures, **more})


TRIALS = [
    record("base", "completed", 1000, role="baseline"),
    record("a", "completed", 1000),
    record("b", "stopped", 250, reason="stopped by search.stopping"),
    record("c", "failed", 400, reason="the loss is not finite"),
    record("lost", "failed", 100, reason="worker failed, after 3 attempts: killed"),
    record("d", "running", 500, images_executed=300),
    record("e", "running", 250),
]
FORECAST = Forecast(1000, fixed=1, searched=8, levels=(0.25, 0.5), eta=2)
STANDING = Standing.of(
    TRIALS, [(10.0, 0.5), (20.0, 0.1), (30.0, 0.3)], FORECAST, NAMES,
    running={"d"}, paused=1, seconds=184.0, before=1000,
)  # fmt: skip


def test_trials_are_counted_by_state_and_by_rung() -> None:
    s = STANDING
    assert (s.total, s.done, s.failed, s.running, s.paused, s.pending) == (9, 3, 2, 1, 1, 0)
    assert s.rungs == ((0.25, 5), (0.5, 2), (1.0, 1))
    assert s.training == (("d", 500, 1000),)
    assert (s.executed, s.searched) == (3300, 2300)
    assert s.left == round(FORECAST.images_left(TRIALS)) > 0
    assert s.seconds_left == pytest.approx(184 * FORECAST.images_left(TRIALS) / 2300)


def test_the_line_and_the_display_tell_the_same() -> None:
    text = "3 of 9 trials done, 1 running{}, 1 paused, 2 failed"
    at, left = "d at 500 of 1,000 images", STANDING.line().rpartition("; ")[2]
    line = text.format(f" ({at}; 12.5 images per second)")
    assert STANDING.line() == f"{line}; frontier so far at main endpoints (fd/mem): 20/0.1, 10/0.5; {left}"
    assert STANDING.lines(80)[:6] == [
        f"trials    {text.format('')}",
        f"running   {at}",
        "reached   25% by 5, 50% by 2, 100% by 1",
        f"images    3,300 trained, about {STANDING.left:,} left, 12.5 images per second",
        f"time      3:04 so far, {left}",
        "frontier  so far at main endpoints (fd/mem): 20/0.1, 10/0.5",
    ]


@pytest.mark.parametrize("width", [30, 80, 200])
def test_the_plot_holds_every_point_of_the_frontier_and_its_ends(width: int) -> None:
    *rows, axis, labels = STANDING.lines(width)[6:]
    assert max(map(len, [*rows, axis, labels])) <= min(width, 60)
    first, last = rows[0], rows[-1]
    assert first.startswith("       20 |*")
    assert last.startswith("       10 |")
    assert last.endswith("*")
    assert sum(row.count("*") for row in rows) == 2
    assert labels.split() == ["0.1", "0.5"]


def test_a_narrow_terminal_and_fewer_than_two_points_get_no_plot() -> None:
    assert len(STANDING.lines(15)) == 6
    nothing = Standing.of([], [(float("nan"), 0.0)], FORECAST, NAMES)
    assert nothing.lines(80)[0] == "trials    0 of 9 trials done, 0 running, 0 failed"
    assert len(nothing.lines(80)) == 3
    one = Standing.of([], [(5.0, 0.25)], FORECAST, NAMES)
    assert one.lines(80)[-1] == "frontier  so far at main endpoints (fd/mem): 5/0.25"


def test_the_frontier_of_parts_is_that_of_the_whole() -> None:
    points = [(10.0, 0.5), (20.0, 0.1), (15.0, 0.6), (15.0, 0.3), (10.0, 0.5), (float("inf"), 0.0)]
    whole = frontier_of(points)
    kept: tuple[tuple[float, float], ...] = ()
    for point in points:
        kept = frontier_of([*kept, point])
    assert kept == whole == ((20.0, 0.1), (15.0, 0.3), (10.0, 0.5))


# -- status ---------------------------------------------------------------------------------------------------------

SWEEP = """
base: {evaluation: {distances: [fd_classifier, fd_pixels], fidelity: fd_classifier, samples: 500, lengths: [0.25, 0.5, 1.0]}}
space: {observed.sigma: {uniform: [0.1, 0.5]}}
search: {trials: 5}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A sweep whose baseline has ended; one trial trains, one has paused at the first rung, one was stopped there."""
    file, root = tmp_path / "s.yaml", tmp_path / "run"
    file.write_text(SWEEP)
    root.mkdir()
    write_sweep(load_sweep(file), root / "sweep.yaml")
    length = CONFIG.length
    add(root, "base", {"objective.kind": "denoising", "observed.sigma": 0.0}, [(9.0, 0.4)], role="baseline")

    def part(name: str, share: float, points: list[tuple[Any, ...]], **more: Any) -> None:
        images = CONFIG.images_at(share)
        figures = {"images_asked": length, "images_done": images, "images_executed": images, "finished": None}
        add(root, name, {}, points, **{"status": "running", **figures, **more})

    part("trains", 0.375, [(15.0, 0.1, 0.25)])
    part("waits", 0.25, [(19.0, 0.05, 0.25)])
    part("gone", 0.25, [(29.0, 0.3, 0.25)], status="stopped", reason="stopped by search.stopping")
    return root


def begun(root: Path, ago: float = 600.0, executed: int = 0, **more: Any) -> None:
    write_json(root / SESSION_FILE, Session(time.time() - ago, executed, **more))


def test_status_of_a_sweep_that_runs(root: Path) -> None:
    begun(root)
    with only_driver(root):
        told = json.loads(good("status", root / "sweep.yaml", "--json"))
        lines = good("status", root).splitlines()
    assert (told["state"], told["done"], told["running"], told["paused"], told["total"]) == ("running", 2, 1, 1, 6)
    assert told["training"][0][0] == "trains"
    assert told["frontier"] == [[19.0, 0.05], [15.0, 0.1], [9.0, 0.4]]
    assert told["rungs"] == [[0.25, 3], [0.5, 0], [1.0, 0]]
    assert told["seconds"] == pytest.approx(600, abs=30)
    assert told["seconds_left"] == pytest.approx(told["seconds"] * told["left"] / told["executed"], rel=1e-3)
    assert lines[0] == f"{root}: running on {platform.node()}"
    assert lines[1] == "trials    2 of 6 trials done, 1 running, 1 paused, 0 failed"
    assert not is_locked(root / DRIVER_LOCK), "and looking takes nothing away"
    assert lines[5].startswith("time      10:0")


def test_status_of_a_sweep_whose_trials_wait_for_a_node(root: Path) -> None:
    begun(root, pending=("trains", "new"))
    with only_driver(root):
        assert (
            good("status", root).splitlines()[1]
            == "trials    2 of 6 trials done, 0 running, 2 pending, 1 paused, 0 failed"
        )


def test_status_of_a_sweep_that_was_killed_says_how_it_goes_on(root: Path) -> None:
    begun(root)
    add(root, "lost", {}, [], status="failed", reason="worker failed, after 3 attempts: killed")
    with only_driver(root):
        pass
    lines = good("status", root).splitlines()
    assert lines[0] == f"{root}: not running; `ambient-sweep resume {root}` continues it"
    assert lines[1] == "trials    2 of 6 trials done, 0 running, 2 paused, 1 failed"
    assert not any(line.startswith("time") for line in lines)


def test_status_from_another_machine_tells_the_age_of_the_newest_record(root: Path) -> None:
    begun(root, host="node-7")
    for path in root.glob("trials/*/trial.json"):
        os.utime(path, (time.time() - 900, time.time() - 900))
    os.utime(root / SESSION_FILE, (time.time() - 900, time.time() - 900))
    os.utime(trial_path(root, "trains"), (time.time() - 180, time.time() - 180))
    told = json.loads(good("status", root, "--json"))
    assert (told["state"], told["running"]) == ("unknown", 1)
    assert told["seconds"] == pytest.approx(420, abs=30), "the session is known to have lasted until then"
    assert good("status", root).splitlines()[0] == f"{root}: begun on node-7; its newest record is 3 minutes old"


def test_status_of_a_confirmation_counts_the_trainings_that_are_left(root: Path) -> None:
    begun(root, step=Step("training the best again", {"again-1": 6400, "again-2": 6400}))
    with only_driver(root):
        told = json.loads(good("status", root, "--json"))
        assert good("status", root).splitlines()[2] == "confirm   training the best again"
    assert (told["total"], told["budget"]) == (4 + 2, None)
    assert told["left"] >= 12_800


def test_status_of_a_confirmation_counts_its_measurements_also_from_elsewhere_and_when_it_was_killed(
    root: Path,
) -> None:
    for name in ("trains", "waits"):
        add(root, name, {}, [], status="stopped", reason="stopped by search.stopping")
    step = Step("measuring what could be on the frontier again", measurements=45, done=15, seconds=60.0)
    begun(root, step=step)
    with only_driver(root):
        lines = good("status", root).splitlines()
        told = json.loads(good("status", root, "--json"))
    assert lines[1:3] == ["trials    4 of 4 trials done, 0 running, 0 failed", f"confirm   {step.what}; 15 of 45 done"]
    assert "time      10:00 so far, about 2:00 left of this step" in lines
    assert (told["step"]["done"], told["step"]["measurements"], told["seconds_left"]) == (15, 45, 120)
    killed = good("status", root).splitlines()
    assert killed[0].endswith("` continues it")
    assert killed[2] == lines[2]
    begun(root, ago=3600, host="node-7", step=step)
    elsewhere = good("status", root).splitlines()
    assert elsewhere[0].endswith("begun on node-7; its newest record is 1 second old"), "a measurement is one"
    assert elsewhere[2] == lines[2]


def test_status_of_a_finished_sweep(root: Path) -> None:
    for name in ("trains", "waits"):
        add(root, name, {}, [], status="stopped", reason="stopped by search.stopping")
    lines = good("status", root).splitlines()
    assert lines[:2] == [f"{root}: finished", "trials    4 of 4 trials done, 0 running, 0 failed"]
    assert lines[3].endswith(" trained")


def test_status_of_something_else_is_refused(tmp_path: Path) -> None:
    assert bad("status", tmp_path) == f"error: {tmp_path}: sweep.yaml is missing, so this is not the folder of a sweep"

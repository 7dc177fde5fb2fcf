"""The lines that a person follows, with a clock of our own."""

from dataclasses import replace

from made_up_sweeps import CLASSIFIER, make_trial

from ambient_sweep.config import build_config
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.running.callback import describe_error
from ambient_sweep.sweep.running.progress import Forecast, Progress
from ambient_sweep.sweep.search.budget import Budget
from ambient_sweep.sweep.space.definition import SweepTrial


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(total: int = 4, forecast: Forecast | None = None, **more: object) -> tuple[Progress, list[str], Clock]:
    lines: list[str] = []
    clock, forecast = Clock(), forecast or Forecast(0, 0, 0)
    progress = Progress(total, ("fd", "mem"), lines.append, forecast, clock=clock, status_every=30, **more)  # type: ignore[arg-type]
    return progress, lines, clock


def trial(name: str, sigma: float = 0.2) -> SweepTrial:
    return SweepTrial("search", {"observed.sigma": sigma}, trial_id=name)


def report(fidelity: float = 10.0, memorization: float = 0.5, **more: object) -> Report:
    return Report(fidelity=fidelity, memorization=memorization, **more)  # type: ignore[arg-type]


def test_an_evaluation_is_one_short_line() -> None:
    progress, lines, clock = make()
    clock.now += 61
    progress.reported(trial("t1"), report(33.25, 0.012, fraction=0.5))
    assert lines == ["[1:01] t1 sigma=0.2: 50% trained, fd 33.25, mem 0.012"]


def test_the_status_comes_regularly_and_counts() -> None:
    progress, lines, clock = make()
    for name in ("a", "b", "c"):
        progress.trial_started(trial(name))
    progress.trial_ended(trial("a"), None)
    progress.trial_ended(trial("b", 0.3), "the loss is not finite")
    progress.status()
    assert lines == ["[0:00] b sigma=0.3: FAILED: the loss is not finite"]
    clock.now += 30
    progress.status()
    progress.status()
    assert lines[1:] == ["[0:30] 1 of 4 trials done, 1 running, 1 failed"]


def test_the_time_left_is_the_pace_of_this_session_times_what_remains() -> None:
    forecast = Forecast(1000, fixed=0, searched=10)
    for name in ("a", "b"):  # trained in an earlier session
        forecast.report(name, "search", 1000, 1000, 0)
    progress, _, clock = make(total=10, done=2, forecast=forecast)
    clock.now += 7
    assert progress.seconds_left() is None
    progress.reported(trial("c"), report(images=500, images_executed=500, images_left=500))
    clock.now += 13  # half a trial in 20 seconds; seven and a half remain
    assert progress.seconds_left() == 7.5 * 40
    assert progress.status_line().endswith("; about 5:00 left")


def test_the_frontier_holds_what_no_other_point_beats() -> None:
    progress, _, _ = make(points=[(10.0, 0.5), (20.0, 0.1)])
    for values in ((15.0, 0.6), (15.0, 0.3), (float("nan"), 0.0)):  # the first is beaten by one that is known
        progress.reported(trial("a"), report(*values))
    assert progress.frontier() == [(20.0, 0.1), (15.0, 0.3), (10.0, 0.5)]
    assert "frontier so far at main endpoints (fd/mem): 20/0.1, 15/0.3, 10/0.5" in progress.status_line()


def test_a_long_frontier_is_shown_by_five_points_with_its_ends() -> None:
    points = [(float(100 - i), i / 100) for i in range(50)]
    progress, _, _ = make(points=points)
    shown = progress.frontier()
    assert len(shown) == 5
    assert (shown[0], shown[-1]) == (points[0], points[-1])


def test_ray_s_error_texts_become_one_line() -> None:
    died = (
        "Failure # 1 (occurred at x)\nValueError: old\n"
        "Failure # 2 (occurred at y)\nThe actor died unexpectedly\n\tpid: 3\n"
    )
    assert describe_error(died) == "the worker process died (killed, or out of memory)"
    raised = (
        "Failure # 1 (occurred at x)\n\x1b[36mray::f()\x1b[39m (pid=3)\n"
        "  File 'a.py'\nOSError: No space left on device\n"
    )
    assert describe_error(raised) == "OSError: No space left on device"
    assert describe_error("") == "Ray gave no reason"


def test_with_a_budget_its_images_say_how_much_is_left() -> None:
    budget, forecast = Budget(1_000_000, {"before": 200_000}), Forecast(100_000, 0, 512, budget=1_000_000)
    forecast.report("before", "search", 200_000, 200_000, 0)
    progress, _, clock = make(total=512, done=3, budget=budget, forecast=forecast)
    assert progress.seconds_left() is None
    clock.now += 60
    budget.report("a", 200_000)
    forecast.report("a", "search", 200_000, 200_000, 0)
    line = progress.status_line()
    assert line == "400,000 of 1,000,000 images trained, 3 trials done, 0 running, 0 failed; about 3:00 left"
    forecast.report("a", "search", 800_000, 800_000, 0)
    assert progress.seconds_left() is None


def test_paused_trials_are_not_counted_as_running() -> None:
    progress, _, _ = make()
    for name in ("a", "b"):
        progress.trial_started(trial(name))
    progress.trial_paused(trial("a"))
    assert progress.status_line().startswith("0 of 4 trials done, 1 running, 1 paused, 0 failed")
    progress.trial_started(trial("a"))
    assert progress.status_line().startswith("0 of 4 trials done, 2 running, 0 failed")
    progress.trial_paused(trial("a"))
    progress.trial_ended(trial("a"), None)
    assert progress.status_line().startswith("1 of 4 trials done, 1 running, 0 failed")


def test_the_confirmation_goes_on_with_the_clock_and_the_pace_of_the_search() -> None:
    progress, lines, clock = make(total=2, forecast=Forecast(1000, fixed=0, searched=8), done=1, budget=Budget(9000))
    progress.reported(trial("a"), report(images=1000, images_executed=1000))
    progress.trial_ended(trial("a"), None)
    clock.now += 60
    progress.confirm({"a.1000.seed-1": 1000, "a.1000.seed-2": 500})
    progress.status()
    assert lines[-1].startswith("[1:00] 2 of 4 trials done, 0 running, 0 failed; frontier")
    assert lines[-1].endswith("; about 1:30 left")


def test_running_trials_say_how_far_they_are_and_the_time_left_learns_from_them() -> None:
    config, forecast = build_config(CLASSIFIER), Forecast(1000, fixed=0, searched=1)
    record = make_trial("a", config, status="running", images_asked=1000, images_done=0, images_executed=0)
    progress, lines, clock = make(total=1, forecast=forecast, record=lambda trial_id: record)
    progress.trial_started(trial("a"))
    for images in (200, 500):
        clock.now += 30
        record = replace(record, images_done=images, images_executed=images)
        progress.status()
    assert lines == [
        "[0:30] 0 of 1 trials done, 1 running (a at 200 of 1,000 images; 6.67 images per second), 0 failed; about 2:00 left",
        "[1:00] 0 of 1 trials done, 1 running (a at 500 of 1,000 images; 10 images per second), 0 failed; about 1:00 left",
    ]

"""How much a sweep will still train, against sweeps that are played to their ends."""

import random
from pathlib import Path

import pytest
from made_up_sweeps import CLASSIFIER, make_trial
from searches import IMAGES, Driver, sweep_of

from ambient_sweep.config import build_config
from ambient_sweep.sweep.forecast import SURPLUS, Forecast, executed_images
from ambient_sweep.sweep.report import Report
from ambient_sweep.sweep.stopping.rungs import Decision
from ambient_sweep.trial.records import TrialRecord

TEXT = """
base: {training: {images: 6400, batch_size: 64}, evaluation.lengths: [0.125, 0.25, 0.5, 1.0]}
space: {observed.sigma: {uniform: [0.1, 0.5]}}
search: {sampler: random}
"""


CONFIG = build_config(CLASSIFIER)


def stands(name: str, role: str, done: int, executed: int, left: int) -> TrialRecord:
    """A trial's record after `done` images, of which it trained `executed` itself."""
    figures = {"images_asked": done + left, "images_done": done, "images_executed": executed}
    return make_trial(name, CONFIG, role=role, status="running" if left else "stopped", **figures)


def test_fixed_trials_run_to_their_ends() -> None:
    forecast = Forecast(1000, fixed=2, searched=0)
    assert forecast.images_left(()) == 2000
    trials = [stands("b", "baseline", 400, 400, 600)]
    assert forecast.images_left(trials) == 1600
    trials.append(stands("c", "control", 250, 0, 250))  # it stops at its half, and what it has is another's
    assert (forecast.images_left(trials), executed_images(trials)) == (850, 400)
    trials[1] = stands("c", "control", 250, 0, 0)
    assert forecast.images_left(trials) == 600


def test_trials_that_are_given_train_what_they_have_left() -> None:
    forecast = Forecast(1000, fixed=1, searched=0, given={"r": 1000, "s": 500})
    trials = [stands("b", "baseline", 1000, 1000, 0), stands("r", "replicate", 400, 400, 600)]
    assert forecast.images_left(trials) == 600 + 500


def test_without_rungs_searched_trials_do_too() -> None:
    forecast = Forecast(1000, fixed=0, searched=4)
    assert forecast.images_left(()) == 4000
    assert forecast.images_left([stands("a", "search", 1000, 1000, 0)]) == 3000


def test_rungs_let_one_in_eta_pass() -> None:
    forecast = Forecast(1000, fixed=0, searched=10, levels=(0.25, 0.5), eta=2)
    assert forecast.images_left(()) == pytest.approx(10 * (250 + (250 / 2 + 500 / 4) * SURPLUS))
    assert Forecast(1000, 0, 9, (0.5,), 3).images_left(()) == pytest.approx(9 * (500 + 500 / 3 * SURPLUS))


def test_a_failed_trial_trains_no_more() -> None:
    forecast = Forecast(1000, fixed=0, searched=10)
    trials = [stands(name, "search", 100, 100, 900 if name in "fghij" else 0) for name in "abcdefghij"]
    assert forecast.images_left(trials) == 5 * 900
    assert forecast.images_left([stands(trial.trial_id, "search", 100, 100, 0) for trial in trials]) == 0


def test_lucky_trials_leave_work_for_those_to_come() -> None:
    forecast = Forecast(1000, fixed=0, searched=10, levels=(0.25, 0.5), eta=2)
    trials = [stands(name, "search", 1000, 1000, 0) for name in "abcdefgh"]
    trials.append(stands("i", "search", 200, 200, 800))
    assert forecast.images_left(trials) == 50 + 250, "to the next rung, and the first stretch of the tenth"


def test_what_others_trained_is_expected_to_be_shared_again() -> None:
    forecast = Forecast(1000, fixed=0, searched=10)
    assert forecast.images_left([stands("a", "search", 1000, 500, 0)]) == 10 * 500 - 500


def test_a_budget_is_spent_no_further_than_trials_go() -> None:
    forecast = Forecast(1000, fixed=0, searched=2, budget=10**9)
    assert forecast.images_left([stands("a", "search", 1000, 1000, 0)]) == 1000


def test_a_budget_is_spent_in_full_and_fixed_trials_come_on_top() -> None:
    forecast = Forecast(1000, fixed=1, searched=512, levels=(0.5,), budget=5000)
    assert forecast.images_left(()) == 1000 + 5000
    baseline = stands("b", "baseline", 1000, 1000, 0)
    assert forecast.images_left([stands("a", "search", 1000, 1000, 0), baseline]) == 4000
    assert forecast.images_left([stands("a", "search", 6000, 6000, 0), baseline]) == 0


@pytest.mark.parametrize("seed", range(3))
def test_it_is_near_what_a_search_trains_in_the_end(tmp_path: Path, seed: int) -> None:
    """From a quarter of its trials on. It is low: early trials are promoted before better ones come, which it leaves out."""
    sweep = sweep_of(tmp_path, TEXT, search__trials=40, search__seed=seed)
    forecast = Forecast(IMAGES, 1, 40, sweep.rung_levels, sweep.search.stopping.eta)
    guesses, trials = list[float](), dict[str, TrialRecord]()

    class Played(Driver):
        def _report(self, trial_id: str, report: Report) -> Decision:
            role = self.folders[trial_id].trial.role
            trials[trial_id] = stands(trial_id, role, report.images, report.images, report.images_left)
            if len([f for f in self.folders.values() if f.reports]) >= 11:
                guesses.append(executed_images(trials.values()) + forecast.images_left(trials.values()))
            return super()._report(trial_id, report)

    driver = Played(sweep, random.Random(seed), cost=lambda values: IMAGES, smooth=True)
    driver.run()
    trained = sum(folder.reports[-1].images for folder in driver.folders.values())
    assert executed_images(trials.values()) == trained
    assert all(0.6 * trained < guess < 1.1 * trained for guess in guesses)
    assert len(guesses) > 30
